import pytest

from avader.config import parse
from avader.errors import InputError

TEXTS = {
    "job.toml": 'out = "there"\ncount = 7\nseed = 3\n',
    "small": "[network]\nsize = 32\nlatent = 5\n[schedule]\nperiods = 2\n",
    "bad.toml": "count = \n",
    "counts.toml": 'model = "m"\ncounts = { 1 = 5 }\n',
}


SEARCHED = """
[search]
"optimiser.learning_rate" = { low = 5e-4, high = 5e-3, log = true }
"optimiser.batch" = { choices = [64, 128, 256] }
"mixture.components" = { low = 8, high = 20 }
"""


def parsed(verb: str, *arguments: str):
    return parse(verb, arguments, read_text=TEXTS.__getitem__, recipe_text=TEXTS.__getitem__)


def test_command_line_beats_environment_beats_file_beats_default(monkeypatch):
    monkeypatch.setenv("AVADER_SEED", "5")
    monkeypatch.setenv("AVADER_COUNT", "6")
    settings = parsed("simulate", "--config", "job.toml", "--seed", "9")
    assert (settings.seed, settings.count, settings.out, settings.size) == (9, 6, "there", 64)


def test_recipe_is_under_the_options_and_over_the_defaults():
    settings = parsed(
        "train", "--data", "d", "--out", "o", "--recipe", "small", "--network.size", "48"
    )
    assert settings.network.size == 48
    assert settings.network.latent == 5
    assert settings.schedule.periods == 2
    assert settings.schedule.gamma == 5e-4


def test_lists_and_switches():
    settings = parsed(
        "generate", "--model", "m", "--out", "o", "--count", "1", "--components", "2,3,7"
    )
    assert settings.components == (2, 3, 7)
    pairs = ["--counts", "0=500", "--counts", "3=200"]
    settings = parsed("generate", "--model", "m", "--out", "o", *pairs)
    assert (settings.counts, settings.objects) == ({0: 500, 3: 200}, 700)
    settings = parsed("generate", "--config", "counts.toml", "--out", "o", "--counts", "3=200")
    assert settings.counts == {3: 200}
    settings = parsed("generate", "--config", "counts.toml", "--out", "o")
    assert settings.counts == {1: 5}


def test_counts_of_the_environment_replace_a_files(monkeypatch):
    monkeypatch.setenv("AVADER_COUNTS", '{"2": 7}')
    given = ["--config", "counts.toml", "--out", "o"]
    assert parsed("generate", *given).counts == {2: 7}
    with pytest.raises(InputError, match="wanted --counts or AVADER_COUNTS, got both"):
        parsed("generate", *given, "--counts", "3=200")


def test_switches():
    settings = parsed(
        "classify", "--model", "m", "--data", "d", "--out", "o", "--no-reconstruction"
    )
    assert settings.reconstruction is False


@pytest.mark.parametrize(
    ("verb", "arguments", "words"),
    [
        ("simulate", ["--count", "5"], ["--out is needed", "avader simulate --help"]),
        ("simulate", ["--out", "o", "--count", "0"], ["--count: wanted", "got '0'"]),
        ("simulate", ["--config", "bad.toml"], ["wanted TOML in bad.toml"]),
        ("hats", ["--catalogue", "c", "--out", "o", "--margin", "nan"],
         ["--margin: wanted a finite number"]),
        ("generate", ["--model", "m", "--out", "o", "--count", "9", "--psf", "p.fits",
                      "--psf-fwhm", "2"], ["--psf-fwhm: wanted it or psf, got both"]),
        ("classify", ["--model", "m", "--data", "d", "--out", "o", "--machine", "g5"],
         ["--machine: wanted NAME:PRICE:RATE"]),
        ("pack", ["--source", "s", "--out", "o", "--preprocessing.bands", "0,1",
                  "--preprocessing.weights", "1"],
         ["--preprocessing.weights: wanted one per kept band"]),
        ("pack", ["--source", "s", "--out", "o", "--preprocessing.extensions", "G,R,G"],
         ["extensions: wanted distinct names or numbers"]),
        ("pack", ["--source", "s", "--out", "o", "--preprocessing.percentiles", "90,10"],
         ["percentiles: wanted low < high"]),
        ("pack", ["--source", "s", "--out", "o", "--service.size", "64"],
         ["--service.name: wanted sdss or legacy with size, got none"]),
        ("pack", ["--source", "s", "--out", "o", "--service.name", "sdss",
                  "--service.size", "2049"],
         ["--service.size: wanted 64 to 2048 px of SDSS, got 2049"]),
        ("pack", ["--source", "s", "--out", "o", "--service.name", "legacy",
                  "--service.size", "3001"], ["--service.size: wanted at most 3000 px"]),
        ("pack", ["--source", "s", "--out", "o", "--service.name", "sdss",
                  "--service.format", "fits"], ["--service.format: wanted jpeg"]),
        ("pack", ["--source", "s", "--out", "o", "--service.name", "legacy",
                  "--service.bands", "gg"], ["--service.bands: wanted distinct letters, got gg"]),
        ("pack", ["--source", "s", "--out", "o", "--service.name", "sdss",
                  "--service.scale-column", "petroR90_r"],
         ["--service.scale: wanted it in units of petroR90_r per px"]),
        ("pack", ["--source", "s", "--out", "o", "--service.name", "sdss",
                  "--service.url", "mirror"], ["--service.url: wanted http://host"]),
        ("train", ["--data", "d", "--out", "o", "--recipe", "small", "--network.size", "50"],
         ["--network.size: wanted a multiple of 8, got 50"]),
        ("train", ["--data", "d", "--out", "o", "--recipe", "small",
                   "--network.kernels", "3,4,5"], ["wanted odd sizes"]),
        ("train", ["--data", "d", "--out", "o", "--recipe", "small",
                   "--mixture.responsibilities", "bound", "--mixture.scaled", "50"],
         ["scaled: wanted 0 with responsibilities = bound, got 50"]),
        ("train", ["--data", "d", "--out", "o", "--recipe", "small",
                   "--mixture.most-components", "1200"], ["--mixture.most-components"]),
    ],
)  # fmt: skip
def test_bad_settings_are_told_in_words(verb, arguments, words):
    with pytest.raises(InputError) as error:
        parsed(verb, *arguments)
    for word in words:
        assert word in str(error.value)


def test_a_range_of_a_search_replaces_the_recipes():
    """Whole: a recipe's choices, or its log, would else be joined with what is given."""
    given = '[search]\n"optimiser.batch" = {low = 32, high = 256}\n'
    given += '"optimiser.learning_rate" = {low = 0.001, high = 0.002}\n'
    arguments = ["--data", "d", "--out", "o", "--config", "c.toml"]
    settings = parse("tune", arguments, read_text=lambda _: given, recipe_text=lambda _: SEARCHED)
    assert settings.search["optimiser.batch"].choices == ()
    assert not settings.search["optimiser.learning_rate"].log
    assert settings.search["mixture.components"].low == 8


def test_unknown_option_ends_with_code_2(capsys):
    with pytest.raises(SystemExit) as ended:
        parsed("simulate", "--out", "o", "--galaxies", "5")
    assert ended.value.code == 2
    assert "--galaxies" in capsys.readouterr().err


def test_unknown_setting_in_a_file_is_refused():
    TEXTS["typo.toml"] = 'out = "o"\ncuont = 5\n'
    with pytest.raises(InputError, match="--cuont"):
        parsed("simulate", "--config", "typo.toml")


def test_files_named_in_the_environment_are_read(monkeypatch):
    monkeypatch.setenv("AVADER_RECIPE", "small")
    settings = parsed("train", "--data", "d", "--out", "o")
    assert (settings.recipe, settings.network.size) == ("small", 32)
    monkeypatch.setenv("AVADER_CONFIG", "job.toml")
    assert parsed("simulate").count == 7


@pytest.mark.parametrize("came", ["[2,", "2,x"])
def test_a_list_that_is_none(came):
    with pytest.raises(InputError, match="components"):
        parsed("generate", "--model", "m", "--out", "o", "--count", "1", "--components", came)


def test_a_list_in_the_environment_is_json(monkeypatch):
    monkeypatch.setenv("AVADER_COMPONENTS", "2,3")
    with pytest.raises(InputError, match="2, 3, 7"):
        parsed("generate", "--model", "m", "--out", "o", "--count", "1")
    monkeypatch.setenv("AVADER_COMPONENTS", "[2, 3]")
    assert parsed("generate", "--model", "m", "--out", "o", "--count", "1").components == (2, 3)
