"""Sliders of the notebooks: they redraw, a batch gets a line of text, and bad controls are refused."""

from __future__ import annotations

import io

import ipywidgets
import matplotlib.pyplot as plt
import numpy as np
import PIL.Image
import pytest
from jupyter_client.manager import start_new_kernel

from fmuc import explore as module
from fmuc.errors import FmucError
from fmuc.explore import explore
from fmuc.notebooks import WIDGET

CODE = """
import matplotlib.pyplot as plt
from fmuc.explore import explore
def draw(height=1.0):
    fig, ax = plt.subplots(figsize=(1, 1))
    ax.bar([0], [height])
    return fig
explore(draw, height=(0.0, 2.0, 0.5))
"""


def bar(height: float = 1.0, colour: str = "black"):
    """A figure that is filled from below up to half of ``height``."""
    fig = plt.figure(figsize=(1, 1), dpi=40)
    ax = fig.add_axes((0, 0, 1, 1))
    ax.bar([0], [height], width=1, color=colour)
    ax.set(xlim=(-0.5, 0.5), ylim=(0, 2))
    ax.set_axis_off()
    if height > 1.9:
        plt.close(fig)
        raise FmucError("too high: choose less")
    return fig


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> list:
    """What is displayed, as if a front end had asked."""
    things = []
    monkeypatch.setattr(module, "_attended", lambda: True)
    monkeypatch.setattr(module, "display", things.append)
    return things


def parts(panel: ipywidgets.VBox) -> tuple[dict[str, ipywidgets.Widget], ipywidgets.Label, ipywidgets.Image]:
    row, message, picture = panel.children
    return {widget.description: widget for widget in row.children}, message, picture


def dark(picture: ipywidgets.Image) -> float:
    """Share of the picture that is not white."""
    return float((np.asarray(PIL.Image.open(io.BytesIO(picture.value)).convert("L")) < 250).mean())


def test_a_moved_slider_and_a_chosen_option_redraw_the_picture(shown):
    explore(bar, height=(0.0, 2.0, 0.5), colour=["black", "white"])
    (panel,) = shown
    widgets, message, picture = parts(panel)
    assert (widgets["height"].value, widgets["colour"].value) == (1.0, "black")  # the defaults
    assert dark(picture) == pytest.approx(0.5, abs=0.05)
    widgets["height"].value = 1.5
    assert dark(picture) == pytest.approx(0.75, abs=0.05)
    widgets["colour"].value = "white"
    assert dark(picture) == 0 and message.value == ""
    assert not plt.get_fignums()  # else Jupyter would show the figures a second time


def test_what_the_function_refuses_stands_under_the_sliders_until_it_is_mended(shown):
    explore(bar, height=(0.0, 2.0, 0.5))
    widgets, message, picture = parts(shown[0])
    before = picture.value
    widgets["height"].value = 2.0
    assert message.value == "too high: choose less" and picture.value == before
    widgets["height"].value = 0.5
    assert message.value == "" and picture.value != before


def test_underscores_are_spaces_and_a_parameter_without_default_starts_somewhere(shown):
    explore(lambda std_threshold, epoch=None: bar(std_threshold), std_threshold=(0.0, 1.0), epoch=[7, 3])
    widgets, *_ = parts(shown[0])
    assert 0 <= widgets["std threshold"].value <= 1 and widgets["epoch"].value == 7


def test_without_a_front_end_one_line_of_text_and_no_figure(capsys):
    explore(bar, height=(0.0, 2.0, 0.5))
    assert capsys.readouterr().out == "Run this cell in JupyterLab to move height.\n"
    explore(bar, height=(0.0, 2.0, 0.5), colour=["black", "white"])
    assert capsys.readouterr().out == "Run this cell in JupyterLab to move height and colour.\n"
    assert not plt.get_fignums()


def test_without_a_front_end_a_broken_picture_is_an_error_all_the_same():
    with pytest.raises(FmucError, match="too high"):
        explore(lambda height=2.0: bar(height), height=(0.0, 2.0))


@pytest.mark.parametrize(("controls", "message"), [
    ({}, "nothing to move: name a parameter of bar"),
    ({"width": (1, 2)}, "bar has no parameter 'width' to move: it knows height, colour"),
    ({"height": (2, 1)}, r"control height=\(2, 1\)"),
    ({"height": ()}, r"control height=\(\) is neither a range nor a list"),
    ({"height": 3}, "control height=3 is neither a range nor a list"),
    ({"height": None}, "control height=None is neither"),
    ({"height": (2.0, 4.0)}, r"leaves out the default 1\.0"),
    ({"colour": ["red"]}, "leaves out the default 'black'"),
])
def test_bad_controls_are_refused_by_name(controls, message):
    with pytest.raises(FmucError, match=message):
        explore(bar, **controls)


def test_a_function_that_lacks_a_value_or_returns_no_figure_is_refused():
    with pytest.raises(FmucError, match="needs a value of 'a': give it a default or a control"):
        explore(lambda a, b=1: bar(b), b=(0, 2))
    with pytest.raises(FmucError, match="must return the figure that it draws, not NoneType"):
        explore(lambda b=1: None, b=(0, 2))


def models(messages: list[dict], name: str) -> list[str]:
    """Ids of the widgets of a kind that a kernel has opened."""
    opened = [m["content"] for m in messages if m["msg_type"] == "comm_open"]
    return [content["comm_id"] for content in opened if content["data"]["state"]["_model_name"] == name]


@pytest.fixture(scope="module")
def kernel():
    """What a real kernel answers to a batch (False), to a front end with a person (True), and to a moved slider."""
    manager, client = start_new_kernel(kernel_name="python3")
    found = {}
    try:
        for attended in (False, True):
            found[attended] = []
            client.execute_interactive(CODE, allow_stdin=attended, timeout=60, output_hook=found[attended].append,
                                       stdin_hook=lambda _: None)
        (slider,) = models(found[True], "FloatSliderModel")
        moved = {"method": "update", "state": {"value": 2.0}, "buffer_paths": []}
        request = client.session.msg("comm_msg", {"comm_id": slider, "data": moved})
        client.shell_channel.send(request)
        found["moved"] = []
        while found["moved"][-1:] != ["idle"]:
            message = client.get_iopub_msg(timeout=60)
            if message["parent_header"].get("msg_id") == request["header"]["msg_id"]:
                found["moved"].append("idle" if message["content"].get("execution_state") == "idle" else message)
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
    return found


@pytest.mark.parametrize("attended", [False, True], ids=["batch", "front end"])
def test_a_kernel_shows_the_widget_to_a_front_end_and_text_to_a_batch(kernel, attended):
    contents = [message["content"] for message in kernel[attended]]
    assert any(WIDGET in content.get("data", {}) for content in contents) is attended
    text = "".join(content.get("text", "") for content in contents)
    assert text == ("" if attended else "Run this cell in JupyterLab to move height.\n")


def test_a_slider_that_is_moved_in_a_front_end_sends_another_picture(kernel):
    (image,) = models(kernel[True], "ImageModel")
    (before,) = [m["buffers"][0] for m in kernel[True] if m["content"].get("comm_id") == image and m["buffers"]]
    after = [m["buffers"][0] for m in kernel["moved"][:-1] if m["content"].get("comm_id") == image and m["buffers"]]
    assert len(after) == 1
    assert [bytes(data[:4]) for data in (before, after[0])] == [b"\x89PNG"] * 2 and bytes(before) != bytes(after[0])
