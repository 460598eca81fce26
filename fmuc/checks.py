"""What ``fmuc verify`` checked, what is wrong, and how that is printed."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field

from fmuc.errors import FmucError


@dataclass
class Group:
    """What was checked of one kind: how many things, those that are wrong (a line each), what else there is to say."""

    name: str
    checked: int = 0
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    wrong: int = 0  # of the checked things

    def check(self, problems: Iterable[str]) -> None:
        """One more thing was checked; ``problems`` are empty if it is right."""
        before = len(self.problems)
        self.tell(problems)
        self.checked, self.wrong = self.checked + 1, self.wrong + (len(self.problems) > before)

    def tell(self, problems: Iterable[str]) -> None:
        """What is wrong beside the things that were to be checked; each becomes one readable line."""
        self.problems += [str(FmucError(problem)) for problem in problems]

    def __str__(self) -> str:
        said = [f"{self.checked - self.wrong} of {self.checked} right"] if self.checked else []
        first, *lines = [*said, *self.notes, *self.problems] or ["nothing to check"]
        return "\n".join([f"{self.name:<10} {first}", *(f"  {line}" for line in lines)])


@dataclass(frozen=True)
class Report:
    """The groups in the order of the checks; ``str()`` is what to print, :meth:`asdict` the JSON."""

    profile: str
    source: str
    groups: tuple[Group, ...]

    @property
    def problems(self) -> list[str]:
        return [problem for group in self.groups for problem in group.problems]

    def asdict(self) -> dict:
        return {"ok": not self.problems, **asdict(self)}

    def __str__(self) -> str:
        return "\n".join(map(str, self.groups))
