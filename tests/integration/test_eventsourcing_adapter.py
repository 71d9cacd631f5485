"""Applications of the `eventsourcing` package run on this store: its published test cases, as installed."""

from __future__ import annotations

import inspect
import pkgutil
import sys
import uuid
from collections.abc import Iterator
from typing import Any, ClassVar
from unittest import TestCase

import eventsourcing.dcb.tests
import eventsourcing.tests.application
import eventsourcing.tests.persistence
import eventsourcing.tests.projection
import pytest
from eventsourcing.persistence import AggregateRecorder, ApplicationRecorder, Tracking, TrackingRecorder
from eventsourcing.tests import application as application_cases
from eventsourcing.tests import persistence as cases
from eventsourcing.tests import projection as projection_cases
from eventsourcing.utils import Environment, get_topic
from pymongo import MongoClient
from pymongo.client_session import ClientSession

from ledgerlake.eventsourcing_mongodb import (
    MongoDBAggregateRecorder,
    MongoDBApplicationRecorder,
    MongoDBDatastore,
    MongoDBFactory,
    MongoDBProcessRecorder,
    MongoDBTrackingRecorder,
)

_MODULE = "ledgerlake.eventsourcing_mongodb"

# Cases of the package that are not run here, and why.
_LEFT_OUT = {
    "TranscoderTestCase": "of transcoders, of which this module has none: it uses those of the package (whose"
    " own JSON transcoder does not pass it: it has no transcoding of tuples)",
    "DCBRecorderTestCase": "of another kind of store, without aggregates and versions (dynamic consistency"
    " boundaries), that this module does not offer",
}


class OnMongoDB:
    """Every test has databases of its own, named by the environment as an application's are."""

    originator_id_type = "uuid"

    @pytest.fixture(autouse=True)
    def _databases(self, mongo_uri: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
        prefix = f"es_{uuid.uuid4().hex[:12]}"
        monkeypatch.setenv("PERSISTENCE_MODULE", _MODULE)
        monkeypatch.setenv("MONGODB_URI", mongo_uri)
        monkeypatch.setenv("MONGODB_DATABASE", prefix)
        monkeypatch.setenv("ORIGINATOR_ID_TYPE", self.originator_id_type)
        opened: list[MongoDBDatastore] = []
        connect = MongoDBDatastore.__init__

        def remembered(self: MongoDBDatastore, *args: Any, **options: Any) -> None:
            connect(self, *args, **options)
            opened.append(self)

        monkeypatch.setattr(MongoDBDatastore, "__init__", remembered)
        self.environ = {"MONGODB_URI": mongo_uri, "MONGODB_DATABASE": prefix}
        yield
        # The package's cases leave many an application open.
        for datastore in opened:
            datastore.close()
        with MongoClient[dict[str, Any]](mongo_uri) as client:
            for name in client.list_database_names():
                if name.startswith(prefix):
                    client.drop_database(name)

    def factory_of(self, name: str = "") -> MongoDBFactory:
        env = {**self.environ, "ORIGINATOR_ID_TYPE": self.originator_id_type}
        return MongoDBFactory(Environment(name, env))


class WithTextIds(OnMongoDB):
    """Ids of the application's own making, and versions from 0."""

    originator_id_type = "text"
    INITIAL_VERSION = 0

    def new_originator_id(self) -> str:
        return f"account-{uuid.uuid4()}"


class TestAggregateRecorder(OnMongoDB, cases.AggregateRecorderTestCase):
    def create_recorder(self) -> AggregateRecorder:
        return self.factory_of().aggregate_recorder()


class TestAggregateRecorderWithTextIdsAndVersionsFromZero(WithTextIds, TestAggregateRecorder):
    pass


class TestApplicationRecorder(OnMongoDB, cases.ApplicationRecorderTestCase[MongoDBApplicationRecorder]):
    def create_recorder(self) -> MongoDBApplicationRecorder:
        return self.factory_of().application_recorder()

    def test_insert_subscribe(self) -> None:
        self.optional_test_insert_subscribe()


class TestApplicationRecorderWithTextIdsAndVersionsFromZero(WithTextIds, TestApplicationRecorder):
    pass


class TestTrackingRecorder(OnMongoDB, cases.TrackingRecorderTestCase):
    def create_recorder(self) -> TrackingRecorder:
        return self.factory_of().tracking_recorder()


class TestProcessRecorderAsTrackingRecorder(TestTrackingRecorder):
    def create_recorder(self) -> TrackingRecorder:
        return self.factory_of().process_recorder()


class TestProcessRecorder(OnMongoDB, cases.ProcessRecorderTestCase):
    def create_recorder(self) -> MongoDBProcessRecorder:
        return self.factory_of().process_recorder()


class TestNonInterleavingNotificationIds(OnMongoDB, cases.NonInterleavingNotificationIDsBaseCase):
    def create_recorder(self) -> ApplicationRecorder:
        return self.factory_of().application_recorder()


class AnotherTrackingRecorder(MongoDBTrackingRecorder):
    pass


class TestInfrastructureFactory(OnMongoDB, cases.InfrastructureFactoryTestCase[MongoDBFactory]):
    def setUp(self) -> None:
        self.env = Environment("TestCase", {"PERSISTENCE_MODULE": _MODULE, **self.environ})
        super().setUp()

    def expected_factory_class(self) -> type[MongoDBFactory]:
        return MongoDBFactory

    def expected_aggregate_recorder_class(self) -> type[AggregateRecorder]:
        return MongoDBAggregateRecorder

    def expected_application_recorder_class(self) -> type[ApplicationRecorder]:
        return MongoDBApplicationRecorder

    def expected_tracking_recorder_class(self) -> type[TrackingRecorder]:
        return MongoDBTrackingRecorder

    def tracking_recorder_subclass(self) -> type[TrackingRecorder]:
        return AnotherTrackingRecorder

    def expected_process_recorder_class(self) -> type[MongoDBProcessRecorder]:
        return MongoDBProcessRecorder


class TestExampleApplication(OnMongoDB, application_cases.ExampleApplicationTestCase):
    expected_factory_topic = get_topic(MongoDBFactory)


class TestApplication(OnMongoDB, application_cases.ApplicationTestCase):
    pass


class EventCounters(MongoDBTrackingRecorder, projection_cases.EventCountersView):
    """A view as users write them: what it counts and how far it is are one transaction."""

    def create_table(self) -> None:
        super().create_table()
        self.datastore.ensure(["event_counters"])

    def get_created_event_counter(self) -> int:
        return self._count("created")

    def get_subsequent_event_counter(self) -> int:
        return self._count("subsequent")

    def incr_created_event_counter(self, tracking: Tracking) -> None:
        self._increment("created", tracking)

    def incr_subsequent_event_counter(self, tracking: Tracking) -> None:
        self._increment("subsequent", tracking)

    def _count(self, name: str) -> int:
        found = self.datastore.collection("event_counters").find_one({"_id": name})
        return 0 if found is None else int(found["count"])

    def _increment(self, name: str, tracking: Tracking) -> None:
        def count(session: ClientSession) -> None:
            self.datastore.collection("event_counters").update_one(
                {"_id": name}, {"$inc": {"count": 1}}, upsert=True, session=session
            )

        self.record(tracking, count)


class TestEventCountersView(OnMongoDB, projection_cases.EventCountersViewTestCase):
    def construct_event_counters_view(self) -> projection_cases.EventCountersView:
        return self.factory_of("eventcounters").tracking_recorder(EventCounters)


class TestEventCountersProjection(OnMongoDB, projection_cases.AggregateEventCountersProjectionTestCase):
    view_class = EventCounters


class TestTaggedDecisionCountersProjection(
    OnMongoDB, projection_cases.TaggedDecisionCountersProjectionTestCase
):
    # The view is ours; what it is a view of has tags instead of aggregates, and is in memory.
    view_class = EventCounters
    env: ClassVar[dict[str, str]] = {
        "DCBAPPLICATION_PERSISTENCE_MODULE": "eventsourcing.dcb.popo:InMemoryDCBFactory",
        "MAPPER_TOPIC": "eventsourcing.dcb.msgpack:MessagePackMapper",
    }


class TestEventSourcedProjection(OnMongoDB, projection_cases.EventSourcedProjectionTestCase):
    pass


_PUBLISHED = (
    eventsourcing.tests.persistence,
    eventsourcing.tests.application,
    eventsourcing.tests.projection,
    eventsourcing.dcb.tests,
)


def _own(module: Any) -> list[type[TestCase]]:
    classes = [value for value in vars(module).values() if inspect.isclass(value)]
    return [each for each in classes if issubclass(each, TestCase) and each.__module__ == module.__name__]


def _tests(case: type[TestCase]) -> set[str]:
    return {name for name in dir(case) if name.startswith(("test", "optional_test", "_test"))}


def test_every_published_case_is_run_or_left_out_for_a_reason() -> None:
    published = {case for module in _PUBLISHED for case in _own(module) if _tests(case)}
    run = {case for case in published if any(issubclass(ours, case) for ours in _own(sys.modules[__name__]))}
    assert {case.__name__ for case in published - run} == set(_LEFT_OUT)
    assert len(run) == 12


def test_no_test_of_a_published_case_is_changed_or_skipped() -> None:
    for ours in _own(sys.modules[__name__]):
        for case in {case for module in _PUBLISHED for case in _own(module)} & set(ours.__mro__):
            for name in _tests(case):
                assert getattr(ours, name) is getattr(case, name), f"{ours.__name__}.{name}"
                assert name.startswith("test") or hasattr(ours, name.removeprefix("optional_")), name


def test_the_package_publishes_no_cases_that_nobody_here_looked_at() -> None:
    # domain has the aggregates of the cases, postgres_utils what is there for PostgreSQL.
    found = {module.name for module in pkgutil.iter_modules(eventsourcing.tests.__path__)}
    assert found == {"application", "domain", "persistence", "postgres_utils", "projection"}
