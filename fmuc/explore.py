"""Sliders over a plain plotting function, where there is somebody to move them; one line of text where there is not."""

from __future__ import annotations

import inspect
import io
from collections.abc import Callable, Mapping

import ipywidgets
import matplotlib.pyplot as plt
from IPython import get_ipython
from IPython.display import display
from ipywidgets import Widget
from matplotlib.figure import Figure

from fmuc.errors import FmucError


def explore(draw: Callable[..., Figure], **controls: object) -> None:
    """Show ``draw(**values)`` under a slider or a list for each of ``controls``, and draw it anew when one is moved.

    ``draw`` is a plain function that returns a Matplotlib figure. A control is named like a parameter of it and is
    ``(low, high)`` or ``(low, high, step)`` for a slider, or a list or dict of options; it starts at the parameter's
    default. Where a notebook is executed without a front end (papermill, nbval), ``draw`` is called once, so that an
    error shows, and a line of text takes the place of the widget, which nobody could move on a static page.

    Raises :class:`FmucError` for a control that ``draw`` does not know or that is none, and if ``draw`` returns no
    figure. What ``draw`` says by an :class:`FmucError` later on stands under the sliders.
    """
    widgets = _widgets(draw, controls)
    if _attended():
        display(_panel(draw, widgets, _png(draw, widgets)))
    else:
        plt.close(_drawn(draw, widgets))
        words = [_words(name) for name in widgets]
        listed = " and ".join(part for part in (", ".join(words[:-1]), words[-1]) if part)
        print(f"Run this cell in JupyterLab to move {listed}.")


def _attended() -> bool:
    """Whether a person's front end asked for this cell: it allows questions (``input``), a batch does not."""
    kernel = getattr(get_ipython(), "kernel", None)
    return kernel is not None and bool(kernel.get_parent().get("content", {}).get("allow_stdin"))


def _words(name: str) -> str:
    return name.replace("_", " ")


def _widgets(draw: Callable[..., Figure], controls: Mapping[str, object]) -> dict[str, Widget]:
    parameters, title = inspect.signature(draw).parameters, getattr(draw, "__name__", "the function")
    if not controls:
        raise FmucError(f"nothing to move: name a parameter of {title} with its range, such as temperature=(1, 4)")
    for name in controls:
        if name not in parameters:
            raise FmucError(f"{title} has no parameter {name!r} to move: it knows {', '.join(parameters)}")
    for name, parameter in parameters.items():
        if name not in controls and parameter.default is parameter.empty:
            raise FmucError(f"{title} needs a value of {name!r}: give it a default or a control")
    return {name: _widget(name, control, parameters[name].default) for name, control in controls.items()}


def _widget(name: str, control: object, default: object) -> Widget:
    remedy = "use (low, high), (low, high, step) or a list of options"
    widget = None
    if isinstance(control, (tuple, list, dict)) and control:
        try:
            widget = ipywidgets.interactive.widget_from_abbrev(control)
        except (ValueError, TypeError) as error:
            raise FmucError(f"control {name}={control!r}: {error}: {remedy}") from None
    if widget is None:
        raise FmucError(f"control {name}={control!r} is neither a range nor a list: {remedy}")
    if default not in (inspect.Parameter.empty, None):
        values = control.values() if isinstance(control, dict) else control
        slider = hasattr(widget, "min")
        if not (widget.min <= default <= widget.max if slider else default in values):
            raise FmucError(f"control {name}={control!r} leaves out the default {default!r}: {remedy} that contain it")
        widget.value = default
    widget.description, widget.style.description_width = _words(name), "initial"
    if hasattr(widget, "continuous_update"):
        widget.continuous_update = False  # one picture when the handle is let go, not a queue of them
    return widget


def _panel(draw: Callable[..., Figure], widgets: Mapping[str, Widget], first: bytes) -> Widget:
    picture = ipywidgets.Image(value=first, format="png", layout={"max_width": "100%", "object_fit": "contain"})
    message = ipywidgets.Label()

    def redraw(_: object) -> None:
        try:
            picture.value, message.value = _png(draw, widgets), ""
        except FmucError as error:
            message.value = str(error)

    for widget in widgets.values():
        widget.observe(redraw, names="value")
    rows = ipywidgets.HBox(list(widgets.values()), layout={"flex_flow": "row wrap"})
    return ipywidgets.VBox([rows, message, picture])


def _drawn(draw: Callable[..., Figure], widgets: Mapping[str, Widget]) -> Figure:
    figure = draw(**{name: widget.value for name, widget in widgets.items()})
    if not isinstance(figure, Figure):
        raise FmucError(f"{getattr(draw, '__name__', 'the function')} must return the figure that it draws, "
                        f"not {type(figure).__name__}")
    return figure


def _png(draw: Callable[..., Figure], widgets: Mapping[str, Widget]) -> bytes:
    figure, buffer = _drawn(draw, widgets), io.BytesIO()
    figure.savefig(buffer, format="png", dpi=figure.dpi)
    plt.close(figure)  # else Jupyter shows it a second time
    return buffer.getvalue()
