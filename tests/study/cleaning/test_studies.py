"""How a study of a cleaning ends: its books are closed whatever happens, and the caller's signals are its own again."""

import signal

import pytest

from defenses.registry import UserError
from study.cleaning import studies
from study.cleaning.options import parse_clean
from study.cleaning.source import StudyData


class Session:
    """Stands for an open study that ends as a test says."""

    def __init__(self, end: object) -> None:
        self.end, self.closed = end, ""

    def run(self) -> str:
        if isinstance(self.end, BaseException):
            raise self.end
        return str(self.end)

    def close(self, status: str, _seconds: float, show: bool) -> None:
        assert not show
        self.closed = status


@pytest.mark.parametrize(
    ("end", "status", "raised"),
    [
        ("", "FINISHED", None),
        ("every trial failed", "FAILED", UserError),
        (UserError("a rule"), "FAILED", UserError),
        (KeyboardInterrupt(), "KILLED", KeyboardInterrupt),
    ],
)
def test_books_are_closed(end: object, status: str, raised: type[BaseException] | None) -> None:
    session, before = Session(end), signal.getsignal(signal.SIGINT)
    if raised is None:
        studies._drive(session)
    else:
        with pytest.raises(raised):
            studies._drive(session)
    assert session.closed == status
    assert signal.getsignal(signal.SIGINT) == before


def test_the_name_of_a_study_tells_settings_and_data_apart() -> None:
    config = parse_clean({"data": "data", "out": "out"})
    labels = [0, 1]

    def name(fingerprint: str = "a", **options: object) -> str:
        data = StudyData("own:data.json", fingerprint, labels)  # type: ignore[arg-type]
        (one,) = studies.search_configs(config, ("pipd",), data, {"preset": "smoke", "set": {}, **options})
        assert one.train_size is None
        assert one.until == "isolate"
        return one.study_name

    names = {name(), name("b"), name(width=8), name(set={"beta": "2"}), name(preset="small")}
    assert len(names) == 5
    assert all(one.startswith("pipd-") for one in names)
    assert name() == name(threads=1)
