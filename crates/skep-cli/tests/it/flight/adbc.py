"""What the ADBC driver for Flight SQL does with a coordinator: one function per case.

Called as: adbc.py CASE ADDRESS [NAME=PATH ...]
"""

import sys
import threading
import time

import adbc_driver_flightsql.dbapi as flight_sql
import pyarrow
import pyarrow.flight
from adbc_driver_flightsql import DatabaseOptions


def connect(address, **options):
    return flight_sql.connect(address, autocommit=True, **options)


def ask(connection, sql, parameters=None):
    with connection.cursor() as cursor:
        cursor.execute(sql, parameters)
        return cursor.fetchall()


def fails(error, action, *parts):
    try:
        action()
    except error as failure:
        text = str(failure)
        assert all(part in text for part in parts), text
        return failure
    raise AssertionError("it did not fail")


def db_api(address):
    with connect(address) as connection:
        assert ask(connection, "SELECT 1 AS x, 'zwei' AS y, NULL AS z") == [(1, "zwei", None)]
        with connection.cursor() as cursor:
            cursor.execute("CREATE TABLE t (a BIGINT, b VARCHAR)")
            cursor.execute("INSERT INTO t VALUES (1, 'x'), (2, 'y')")
            cursor.execute("SELECT * FROM t ORDER BY a")
            assert [column[0] for column in cursor.description] == ["a", "b"]
            assert cursor.fetchone() == (1, "x")
            assert cursor.fetchmany(5) == [(2, "y")]
            assert cursor.fetchone() is None
            cursor.execute("SELECT count(*) AS c FROM t")
            table = cursor.fetch_arrow_table()
            assert table.schema == pyarrow.schema(
                [pyarrow.field("c", pyarrow.int64(), nullable=False)]
            ), table.schema
            # Once, not once per call of the protocol.
            assert table.to_pylist() == [{"c": 2}]
            cursor.execute("SELECT value FROM generate_series(1, 300000)")
            assert cursor.fetch_arrow_table().num_rows == 300000
            cursor.execute("SELECT 1 AS x WHERE false")
            assert cursor.fetchall() == []
            schema = cursor.adbc_execute_schema("SELECT a, b FROM t")
            assert schema.names == ["a", "b"], schema
            partitions, schema = cursor.adbc_execute_partitions("SELECT a FROM t ORDER BY a")
            assert len(partitions) == 1
            cursor.adbc_read_partition(partitions[0])
            assert cursor.fetchall() == [(1,), (2,)]
        info = connection.adbc_get_info()
        assert info["vendor_name"] == "skep", info
    # With a user, whom nobody asks for here.
    options = {"username": "me", "password": "secret"}
    with connect(address, db_kwargs=options) as connection:
        assert ask(connection, "SELECT 1") == [(1,)]


def parameters(address):
    with connect(address) as connection:
        ask_with = lambda sql, values: ask(connection, sql, values)
        assert ask_with("SELECT ? + 1, ?", (41, "x")) == [(42, "x")]
        assert ask_with("SELECT $2, $1", (1, "x")) == [("x", 1)]
        assert ask_with("SELECT ?", (None,)) == [(None,)]
        assert ask_with("SELECT CAST(? AS DOUBLE) * 2", (1.5,)) == [(3.0,)]
        with connection.cursor() as cursor:
            cursor.execute("CREATE TABLE t (a INT, b VARCHAR)")
            cursor.executemany("INSERT INTO t VALUES (?, ?)", [(n, str(n)) for n in range(1000)])
            assert cursor.rowcount in (1000, -1), cursor.rowcount
            cursor.execute("INSERT INTO t VALUES (?, ?)", (1000, "last"))
        assert ask(connection, "SELECT count(*), sum(a), max(a) FROM t") == [(1001, 500500, 1000)]
        assert ask_with("SELECT b FROM t WHERE a = ?", (1000,)) == [("last",)]
        with connection.cursor() as cursor:
            cursor.adbc_prepare("SELECT b FROM t WHERE a = ?")
            for n in (3, 4):
                cursor.execute("SELECT b FROM t WHERE a = ?", (n,))
                assert cursor.fetchall() == [(str(n),)]


def objects(address):
    with connect(address) as connection:
        with connection.cursor() as cursor:
            cursor.execute("CREATE SCHEMA sales")
            cursor.execute("CREATE TABLE sales.orders (id BIGINT NOT NULL, who VARCHAR)")
            cursor.execute("CREATE VIEW recent AS SELECT * FROM sales.orders")
        found = connection.adbc_get_objects(depth="all").read_all().to_pylist()
        assert [catalog["catalog_name"] for catalog in found] == ["skep"]
        schemas = {s["db_schema_name"]: s for s in found[0]["catalog_db_schemas"]}
        assert {"public", "sales", "information_schema"} <= set(schemas), set(schemas)
        orders = schemas["sales"]["db_schema_tables"][0]
        assert (orders["table_name"], orders["table_type"]) == ("orders", "BASE TABLE")
        columns = [(c["column_name"], c["ordinal_position"]) for c in orders["table_columns"]]
        assert columns == [("id", 1), ("who", 2)], columns
        views = connection.adbc_get_objects(
            depth="tables", table_types_filter=["VIEW"], db_schema_filter="public"
        ).read_all().to_pylist()
        tables = views[0]["catalog_db_schemas"][0]["db_schema_tables"]
        assert [t["table_name"] for t in tables] == ["recent"], tables
        assert connection.adbc_get_table_types() == ["BASE TABLE", "VIEW"]


def table_schema(address):
    with connect(address) as connection:
        with connection.cursor() as cursor:
            cursor.execute("CREATE TABLE t (id BIGINT NOT NULL, who VARCHAR, at TIMESTAMP)")
        schema = connection.adbc_get_table_schema("t", db_schema_filter="public")
        assert schema.names == ["id", "who", "at"], schema
        assert schema.field("id").type == pyarrow.int64() and not schema.field("id").nullable
        assert schema.field("who").type == pyarrow.string()
        fails(Exception, lambda: connection.adbc_get_table_schema("nope"))


def ingest(address):
    count = 1_000_000
    table = pyarrow.table(
        {
            "n": pyarrow.array(range(count), pyarrow.int64()),
            "s": pyarrow.array([f"row {n % 1000}" for n in range(count)]),
            "d": pyarrow.array([n % 7 for n in range(count)]).cast(pyarrow.int8()),
        }
    )
    with connect(address) as connection:
        with connection.cursor() as cursor:
            # The driver sends each batch as one message, and no message of more than 16 MiB.
            batches = pyarrow.RecordBatchReader.from_batches(
                table.schema, table.to_batches(max_chunksize=100_000)
            )
            assert cursor.adbc_ingest("big", batches, mode="create") == count
            cursor.execute("SELECT count(*), sum(n), count(DISTINCT s), max(d) FROM big")
            assert cursor.fetchall() == [(count, count * (count - 1) // 2, 1000, 6)]
            fails(
                flight_sql.Error,
                lambda: cursor.adbc_ingest("big", table.slice(0, 1), mode="create"),
                "already exists",
            )
            assert cursor.adbc_ingest("big", table.slice(0, 10), mode="append") == 10
            assert cursor.adbc_ingest("big", table.slice(0, 5), mode="replace") == 5
            assert cursor.adbc_ingest("other", table.slice(0, 5), mode="create_append") == 5
            cursor.execute("SELECT (SELECT count(*) FROM big), (SELECT count(*) FROM other)")
            assert cursor.fetchall() == [(5, 5)]
            assert cursor.adbc_ingest("mine", table.slice(0, 3), mode="create", temporary=True) == 3
            cursor.execute("SELECT count(*) FROM mine")
            assert cursor.fetchall() == [(3,)]


def cancel(address):
    with connect(address) as connection:
        with connection.cursor() as cursor:
            cursor.execute("SELECT value FROM generate_series(1, 1000000000000)")
            assert cursor.fetchone() == (1,)
            threading.Timer(0.5, cursor.adbc_cancel).start()
            begun = time.monotonic()

            def read():
                while cursor.fetchmany(100_000):
                    pass

            fails(flight_sql.Error, read)
            assert time.monotonic() - begun < 30
        # What was cancelled takes nothing else with it.
        assert ask(connection, "SELECT 1") == [(1,)]


def sessions(address):
    with connect(address) as first, connect(address) as second:
        with first.cursor() as cursor:
            cursor.execute("CREATE SCHEMA sales")
            cursor.execute("CREATE TABLE sales.t AS SELECT 'sales' AS x")
            cursor.execute("CREATE TEMPORARY TABLE mine AS SELECT 'first' AS x")
            cursor.execute("SET datafusion.execution.batch_size = 77")
        with second.cursor() as cursor:
            cursor.execute("CREATE TEMPORARY TABLE mine AS SELECT 'second' AS x")
        assert ask(first, "SELECT x FROM mine") == [("first",)]
        assert ask(second, "SELECT x FROM mine") == [("second",)]
        setting = (
            "SELECT value FROM information_schema.df_settings "
            "WHERE name = 'datafusion.execution.batch_size'"
        )
        assert ask(first, setting) == [("77",)]
        assert ask(second, setting) == [("8192",)]
        assert first.adbc_current_catalog == "skep"
        first.adbc_current_db_schema = "sales"
        assert first.adbc_current_db_schema == "sales"
        assert second.adbc_current_db_schema == "public"
        assert ask(first, "SELECT x FROM t") == [("sales",)]


def errors(address):
    with connect(address) as connection:
        run = lambda sql: (lambda: ask(connection, sql))
        fails(flight_sql.ProgrammingError, run("SELEC 1"), "syntax error")
        failure = fails(flight_sql.Error, run("SELECT * FROM nope"), 'table "nope" not found')
        assert failure.status_code.name == "NOT_FOUND", failure.status_code
        fails(flight_sql.Error, run("SELECT 1 / 0"), "zero")
        # A plan in Substrait is bytes.
        fails(flight_sql.ProgrammingError, run(b"no plan"), "Substrait plan cannot be read")
        assert ask(connection, "SELECT 1") == [(1,)]


def substrait(address, plan):
    with open(plan, "rb") as file:
        plan = file.read()
    with connect(address) as connection:
        assert ask(connection, plan) == [("ann",), ("bob",)]
        with connection.cursor() as cursor:
            assert cursor.adbc_execute_schema(plan).names == ["who"]
            partitions, schema = cursor.adbc_execute_partitions(plan)
            assert (len(partitions), schema.names) == (1, ["who"])
            cursor.adbc_read_partition(partitions[0])
            assert cursor.fetchall() == [("ann",), ("bob",)]


def login(name, password=None):
    return {"username": name, "password": password or f"{name}-secret"}


def refused(status, action, *parts):
    failure = fails(flight_sql.Error, action, *parts)
    assert failure.status_code.name == status, (failure.status_code, str(failure))
    assert "-secret" not in str(failure), failure


def users(address):
    for name in ("ann", "will", "rita"):
        with connect(address, db_kwargs=login(name)) as connection:
            assert ask(connection, "SELECT 1") == [(1,)]
    # A token is as good as the password it was given for, in either place.
    client = pyarrow.flight.FlightClient(address)
    _, bearer = client.authenticate_basic_token("rita", "rita-secret")
    header = {DatabaseOptions.AUTHORIZATION_HEADER.value: bearer.decode()}
    as_password = login("rita", bearer.decode().removeprefix("Bearer "))
    for options in (header, as_password):
        with connect(address, db_kwargs=options) as connection:
            assert ask(connection, "SELECT 2") == [(2,)]
    # It is said at once, and not by the first statement.
    for options in (login("will", "guess-secret"), login("eve")):
        refused(
            "UNAUTHENTICATED",
            lambda: connect(address, db_kwargs=options),
            "wrong user or password",
        )

    def anonymous():
        with connect(address) as connection:
            ask(connection, "SELECT 1")

    refused("UNAUTHENTICATED", anonymous, "who asks")
    forged = {DatabaseOptions.AUTHORIZATION_HEADER.value: "Bearer skep1.made.up"}

    def with_forged():
        with connect(address, db_kwargs=forged) as connection:
            ask(connection, "SELECT 1")

    refused("UNAUTHENTICATED", with_forged)


def reader(address, open, closed):
    row = pyarrow.table({"a": [1]})
    with connect(address, db_kwargs=login("will")) as will:
        with will.cursor() as cursor:
            cursor.execute("CREATE TABLE t AS SELECT value AS a FROM generate_series(1, 20000)")
            assert cursor.adbc_ingest("t", row, mode="append") == 1
    with connect(address, db_kwargs=login("rita")) as rita:
        assert ask(rita, "SELECT count(*) FROM t") == [(20001,)]
        run = lambda sql: (lambda: ask(rita, sql))
        for sql in (
            "INSERT INTO t VALUES (1)",
            "DROP TABLE t",
            "CREATE TABLE u (x INT)",
            "CREATE SCHEMA s",
            f"COPY t TO '{open}/t.parquet'",
        ):
            refused("UNAUTHORIZED", run(sql), "is a reader")
        with rita.cursor() as cursor:
            refused(
                "UNAUTHORIZED",
                lambda: cursor.executemany("INSERT INTO t VALUES (?)", [(1,), (2,)]),
                "is a reader",
            )
            for mode in ("append", "replace"):
                refused(
                    "UNAUTHORIZED", lambda: cursor.adbc_ingest("t", row, mode=mode), "is a reader"
                )
        # Files only where they are open to all.
        assert ask(rita, f"SELECT x FROM '{open}/x.csv'") == [(7,)]
        refused("UNAUTHORIZED", run(f"SELECT x FROM '{closed}/x.csv'"), "no permission to name")
        # What is set is set for this session.
        assert ask(rita, "SET datafusion.execution.batch_size = 77") in ([], None)
        # What others do is not seen.
        theirs = "SELECT count(*) FROM system.queries WHERE sql LIKE 'CREATE TABLE t%'"
        assert ask(rita, theirs) == [(0,)]
    with connect(address, db_kwargs=login("ann")) as ann:
        assert ask(ann, theirs) == [(1,)]
        assert ask(ann, "SELECT count(*) FROM t") == [(20001,)]
        setting = (
            "SELECT value FROM information_schema.df_settings "
            "WHERE name = 'datafusion.execution.batch_size'"
        )
        assert ask(ann, setting) == [("8192",)]
        # Nobody is kept out of an admin's files.
        assert ask(ann, f"SELECT x FROM '{closed}/x.csv'") == [(7,)]


def text(path):
    with open(path) as file:
        return file.read()


def works(address, options):
    with connect(address, db_kwargs=options) as connection:
        with connection.cursor() as cursor:
            cursor.execute("CREATE TEMPORARY TABLE t AS SELECT 5 AS x")
            cursor.execute("SELECT x FROM t")
            assert cursor.fetchall() == [(5,)]


def tls(address, ca, other_ca):
    authority = DatabaseOptions.TLS_ROOT_CERTS.value
    hostname = DatabaseOptions.TLS_OVERRIDE_HOSTNAME.value
    works(address, {authority: text(ca)})
    works(address, {authority: text(ca), hostname: "bees.internal"})
    fails(flight_sql.Error, lambda: works(address, {authority: text(other_ca)}), "certificate")
    fails(flight_sql.Error, lambda: works(address, {}), "certificate")
    other_name = {authority: text(ca), hostname: "wasps.internal"}
    fails(flight_sql.Error, lambda: works(address, other_name), "certificate")
    fails(flight_sql.Error, lambda: works(address.replace("+tls", "+tcp"), {}))


def mutual_tls(address, ca, cert, key, other_cert, other_key):
    base = {DatabaseOptions.TLS_ROOT_CERTS.value: text(ca)}

    def own(cert, key):
        chain, private = DatabaseOptions.MTLS_CERT_CHAIN, DatabaseOptions.MTLS_PRIVATE_KEY
        return {**base, chain.value: text(cert), private.value: text(key)}

    works(address, own(cert, key))
    # A client need not have one, but what it shows has to be the authority's.
    works(address, base)
    fails(flight_sql.Error, lambda: works(address, own(other_cert, other_key)))


if __name__ == "__main__":
    globals()[sys.argv[1]](sys.argv[2], **dict(said.split("=", 1) for said in sys.argv[3:]))
