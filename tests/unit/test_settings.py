"""Settings come from the environment, and a value that cannot work is refused by name."""

from __future__ import annotations

from pathlib import Path

import pytest

from ledgerlake.settings import Settings, SettingsError, redacted


def test_an_empty_environment_gives_the_documented_defaults(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    settings = Settings.from_env({})
    assert settings == Settings(home=tmp_path / "var")
    assert settings.mongodb_uri is None
    assert settings.database == "ledgerlake"
    assert (settings.segment_size, settings.projection_batch, settings.append_batch) == (100_000, 10_000, 500)
    assert settings.append_linger_ms == 1
    assert settings.snapshot_every == 100


def test_every_variable_is_read() -> None:
    settings = Settings.from_env(
        {
            "LEDGERLAKE_HOME": "/srv/my ledger",
            "LEDGERLAKE_MONGODB_URI": "mongodb://db.example:27017/?replicaSet=rs0",
            "LEDGERLAKE_MONGODB_READ_URI": "mongodb://reader@db.example:27017/?replicaSet=rs0",
            "LEDGERLAKE_WEB_RATE": "50",
            "LEDGERLAKE_DATABASE": "payments",
            "LEDGERLAKE_SEGMENT_SIZE": "1000",
            "LEDGERLAKE_PROJECTION_BATCH": "500",
            "LEDGERLAKE_PROJECTIONS": "ours.models:VISITS, ours.models:REASONS",
            "LEDGERLAKE_ON_POISON": "set_aside",
            "LEDGERLAKE_APPEND_BATCH": "50",
            "LEDGERLAKE_APPEND_LINGER_MS": "1.5",
            "LEDGERLAKE_INLINE": "payment_read_models, ,payment_trends,payment_trends",
            "LEDGERLAKE_SNAPSHOT_EVERY": "0",
            "LEDGERLAKE_NOTEBOOK_MINUTES": "0",
            "LEDGERLAKE_VERIFY_HOURS": "0",
            "LEDGERLAKE_CLOSE_AFTER_DAYS": "5",
            "LEDGERLAKE_HISTORY_DAYS": "30",
            "LEDGERLAKE_ALERT_LAG_SECONDS": "60",
            "LEDGERLAKE_ALERT_WEBHOOK": "https://chat.example/hooks/T0/xyz",
            "LEDGERLAKE_DAGSTER_EXECUTOR": "celery",
            "LEDGERLAKE_DAGSTER_POSTGRES": "postgresql://dagster:xyz@db.example/dagster",
        }
    )
    assert settings == Settings(
        home=Path("/srv/my ledger"),
        mongodb_uri="mongodb://db.example:27017/?replicaSet=rs0",
        mongodb_read_uri="mongodb://reader@db.example:27017/?replicaSet=rs0",
        web_rate=50,
        database="payments",
        segment_size=1000,
        projection_batch=500,
        projections=("ours.models:VISITS", "ours.models:REASONS"),
        on_poison="set_aside",
        append_batch=50,
        append_linger_ms=1.5,
        inline=("payment_read_models", "payment_trends"),
        snapshot_every=0,
        notebook_minutes=0,
        verify_hours=0,
        close_after_days=5,
        history_days=30,
        alert_lag_seconds=60,
        alert_webhook="https://chat.example/hooks/T0/xyz",
        dagster_executor="celery",
        dagster_postgres="postgresql://dagster:xyz@db.example/dagster",
    )
    assert "xyz" not in repr(settings)


def test_everything_on_disk_lies_under_home() -> None:
    settings = Settings(home=Path("/srv/ledger"))
    folders = (
        settings.lake_dir,
        settings.reports_dir,
        settings.notebooks_dir,
        settings.imports_dir,
        settings.mongo_dir,
    )
    assert len(set(folders)) == 5
    assert all(folder.parent == settings.home for folder in folders)


def test_home_becomes_absolute_and_knows_the_tilde(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "me"))
    assert Settings.from_env({"LEDGERLAKE_HOME": "a/../b"}).home == tmp_path / "b"
    assert Settings.from_env({"LEDGERLAKE_HOME": "~/ledger"}).home == tmp_path / "me" / "ledger"


def test_an_empty_value_counts_as_not_set() -> None:
    variables = ("HOME", "MONGODB_URI", "DATABASE", "SEGMENT_SIZE", "APPEND_LINGER_MS")
    assert Settings.from_env({f"LEDGERLAKE_{name}": "" for name in variables}) == Settings.from_env({})


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("LEDGERLAKE_SEGMENT_SIZE", "0"),
        ("LEDGERLAKE_SEGMENT_SIZE", "-5"),
        ("LEDGERLAKE_SEGMENT_SIZE", "many"),
        ("LEDGERLAKE_SEGMENT_SIZE", "1e5"),
        ("LEDGERLAKE_PROJECTION_BATCH", "0"),
        ("LEDGERLAKE_PROJECTION_BATCH", "2000000"),
        ("LEDGERLAKE_APPEND_BATCH", "12.5"),
        ("LEDGERLAKE_APPEND_LINGER_MS", "-1"),
        ("LEDGERLAKE_APPEND_LINGER_MS", "nan"),
        ("LEDGERLAKE_APPEND_LINGER_MS", "inf"),
        ("LEDGERLAKE_FRESHNESS_MS", "-1"),
        ("LEDGERLAKE_FRESHNESS_MS", "60001"),
        ("LEDGERLAKE_CACHE_ENTRIES", "-1"),
        ("LEDGERLAKE_CACHE_MB", "0"),
        ("LEDGERLAKE_CACHE_SECONDS", "0"),
        ("LEDGERLAKE_REDIS_URL", "localhost:6379"),
        ("LEDGERLAKE_DATABASE", "admin"),
        ("LEDGERLAKE_DATABASE", "a.b"),
        ("LEDGERLAKE_DATABASE", "x" * 64),
        ("LEDGERLAKE_MONGODB_URI", "http://db.example"),
        ("LEDGERLAKE_MONGODB_URI", "localhost:27017"),
        ("LEDGERLAKE_MONGODB_READ_URI", "http://db.example"),
        ("LEDGERLAKE_WEB_RATE", "0"),
        ("LEDGERLAKE_PROJECTIONS", "ours.models"),
        ("LEDGERLAKE_PROJECTIONS", "ours/models.py:VISITS"),
        ("LEDGERLAKE_ON_POISON", "skip"),
        ("LEDGERLAKE_HOME", "~nobody-of-that-name/x"),
        ("LEDGERLAKE_NOTEBOOK_MINUTES", "never"),
        ("LEDGERLAKE_VERIFY_HOURS", "-1"),
        ("LEDGERLAKE_CLOSE_AFTER_DAYS", "-1"),
        ("LEDGERLAKE_HISTORY_DAYS", "0"),
        ("LEDGERLAKE_ALERT_LAG_SECONDS", "soon"),
        ("LEDGERLAKE_DAGSTER_EXECUTOR", "dask"),
        ("LEDGERLAKE_DAGSTER_POSTGRES", "postgresql+psycopg://db.example/dagster"),
    ],
)
def test_a_value_that_cannot_work_is_refused_with_its_variable_value_and_remedy(
    variable: str, value: str
) -> None:
    with pytest.raises(SettingsError) as caught:
        Settings.from_env({variable: value})
    assert variable in caught.value.message
    assert value in caught.value.message
    assert caught.value.remedy


def test_a_password_in_a_uri_is_never_shown() -> None:
    with pytest.raises(SettingsError) as caught:
        Settings.from_env({"LEDGERLAKE_MONGODB_URI": "mongo://finance:s3cret@db.example"})
    assert "s3cret" not in str(caught.value)
    assert redacted("mongodb://finance:s3cret@a,b/x?y=z") == "mongodb://finance:***@a,b/x?y=z"
    assert redacted("mongodb://a:27017,b:27018/") == "mongodb://a:27017,b:27018/"
    assert redacted("mongodb://u:pa/ss:w@rd@host/?x=1") == "mongodb://u:***@host/?x=1"
    assert redacted("mongodb://h/?tlsCertificateKeyFilePassword=s3&a=b") == (
        "mongodb://h/?tlsCertificateKeyFilePassword=***&a=b"
    )


@pytest.mark.parametrize("name", ["localtime", "posixrules", "Factory", "Mars/Olympus", "../UTC"])
def test_the_zone_of_the_books_is_one_and_the_same_on_every_machine(name: str) -> None:
    assert Settings.from_env({"LEDGERLAKE_BOOKS_ZONE": "Europe/Berlin"}).books_zone == "Europe/Berlin"
    with pytest.raises(SettingsError, match="no IANA time zone"):
        Settings.from_env({"LEDGERLAKE_BOOKS_ZONE": name})


@pytest.mark.parametrize("url", ["ftp://chat.example/secret", "chat.example/secret", "https:///secret"])
def test_an_address_of_a_webhook_that_cannot_work_is_refused_and_not_shown(url: str) -> None:
    with pytest.raises(SettingsError, match="LEDGERLAKE_ALERT_WEBHOOK") as caught:
        Settings.from_env({"LEDGERLAKE_ALERT_WEBHOOK": url})
    assert "secret" not in str(caught.value)
