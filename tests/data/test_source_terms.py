"""Tests licence and attribution of the sources: what the model card gets, and that they change nothing else."""

from bulletlm.config.schema import Config
from bulletlm.data.sources import source_terms
from bulletlm.pipeline.stage_settings import changing_terms, text_settings


def config(*sources: object) -> Config:
    return Config.model_validate({"data": {"sources": list(sources)}})


def test_every_source_of_which_something_is_known_has_an_entry_without_its_path() -> None:
    given = config(
        "sample",
        "/home/asha/letters",
        {"path": "/home/asha/stories", "license": "CC-BY-4.0", "attribution": "Pratham Books"},
        {"path": "/home/asha/verse", "license": "MIT", "label": "verse"},
        {"path": "hf://owner/dataset?split=train", "license": "MIT"},
    )
    terms = source_terms(given.data)
    assert [entry["label"] for entry in terms] == ["sample", "source 3", "verse", "owner/dataset"]
    assert terms[0]["license"] == "CC0-1.0"
    assert terms[1] == {"label": "source 3", "license": "CC-BY-4.0", "attribution": "Pratham Books"}
    assert terms[3] == {"label": "owner/dataset", "dataset": "owner/dataset", "license": "MIT"}
    assert "asha" not in str(terms)


def test_they_change_the_export_only() -> None:
    plain, named = config("/texts"), config({"path": "/texts", "license": "MIT", "attribution": "us"})
    assert text_settings(plain) == text_settings(named)
    assert changing_terms(plain) == [] and changing_terms(named) and changing_terms(config("sample")) == []


def test_the_general_text_has_an_entry_too() -> None:
    data = Config.model_validate({"data": {"sources": ["/texts"], "mix": {"general": 0.2}}}).data
    assert [(entry["label"], entry["license"]) for entry in source_terms(data)] == [("sample", "CC0-1.0"), ("simple", "CC0-1.0")]
