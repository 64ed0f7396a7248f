"""Checkpoints: what is loaded is what was saved, whatever happened to the process, the disk or the file meanwhile."""

from __future__ import annotations

import errno
import os
import random
import shutil
import signal
import subprocess
import sys
import warnings
from pathlib import Path

import h5py
import numpy as np
import pytest

import bayesprof
from bayesprof import inference
from bayesprof.inference import checkpoint as module
from bayesprof.inference.checkpoint import Checkpoint

IDENTITY = {"method": "walk", "seed": 1, "chains": 2, "sites": ["a.x", "a.y"], "nan": float("nan")}

PACKAGES = {package.__name__: str(Path(package.__file__).parent) for package in (bayesprof, inference)}
PREAMBLE = f"""
import os, sys, time, types, warnings
# the packages alone: what they import takes seconds for each process
for name, folder in {PACKAGES!r}.items():
    sys.modules[name] = types.ModuleType(name)
    sys.modules[name].__path__ = [folder]
from bayesprof.inference import checkpoint
import numpy as np
path = sys.argv[1]

def step(n):
    random = np.random.default_rng(n)
    state = {{"step": n, "rng": random.integers(0, 256, 5056, dtype=np.uint8), "scale": random.random()}}
    return state, {{"z": np.arange(2.0 * n * 7).reshape(2, n, 7) + n}}
"""


def python(script: str, *arguments: object, **options) -> subprocess.Popen:
    """A process that runs `script` after the preamble."""
    command = [sys.executable, "-c", PREAMBLE + script, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, **options)


def step(n: int) -> tuple[dict, dict]:
    """State and draws of the `n`-th save, as those of the preamble."""
    rng = np.random.default_rng(n)
    state = {"step": n, "rng": rng.integers(0, 256, 5056, dtype=np.uint8), "scale": rng.random()}
    return state, {"z": np.arange(2.0 * n * 7).reshape(2, n, 7) + n}


def assert_same(found: object, expected: object) -> None:
    """Equal to the last bit, and of the same types."""
    assert type(found) is type(expected)
    if isinstance(expected, dict):
        assert list(found) == list(expected)
        for key in expected:
            assert_same(found[key], expected[key])
    elif isinstance(expected, np.ndarray | np.generic):
        assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
        assert found.tobytes() == expected.tobytes()
    else:
        assert repr(found) == repr(expected)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def path(tmp_path) -> Path:
    return tmp_path / "run.h5"


@pytest.fixture
def saved(path) -> Path:
    """A checkpoint with step 3, closed."""
    with Checkpoint(path, IDENTITY) as checkpoint:
        assert checkpoint.save(*step(3))
    return path


class Clock:
    """A clock that stands until it is moved."""

    def __init__(self, monkeypatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr(module.time, "monotonic", lambda: self.now)


# -- what is saved is what is loaded

LEAVES = {
    "none": None,
    "true": True,
    "false": False,
    "zero": 0,
    "negative": -7,
    "beyond 64 bits": 2**200 + 1,
    "float": 0.1 + 0.2,
    "negative zero": -0.0,
    "tiny": 5e-324,
    "infinity": float("-inf"),
    "nan": float("nan"),
    "text": 'Ångström "quoted" \\ / \x00 \n \ud800',
    "empty text": "",
    "long text": "x" * 200_000,
    "float64": np.array([0.1, -0.0, np.inf, np.nan, 5e-324]),
    "nan payload": np.array([0x7FF8000000000123], dtype=np.uint64).view(np.float64),
    "float32": np.float32([[0.1, 3e38]]),
    "float16": np.float16([0.1]),
    "complex": np.array([1 + 2j, np.nan * 1j]),
    "int64": np.array([-(2**63), 2**63 - 1]),
    "uint64": np.array([2**64 - 1], dtype=np.uint64),
    "rng": np.arange(5056).astype(np.uint8),
    "bools": np.array([[True], [False]]),
    "big-endian": np.arange(3, dtype=">f8"),
    "no elements": np.zeros((4, 0, 3)),
    "no dimensions": np.array(0.1),
    "numpy float": np.float64(0.1),
    "numpy int": np.int32(-5),
    "numpy bool": np.bool_(True),
    "empty mapping": {},
    "mapping": {"b": {"c": None, "a": np.ones(2)}, "a": 1},
}


@pytest.mark.parametrize("kind", LEAVES)
def test_value_comes_back_with_its_type_and_every_bit(path, kind):
    with Checkpoint(path, IDENTITY) as checkpoint:
        checkpoint.save({"value": LEAVES[kind]}, {})
        assert_same(checkpoint.load(), ({"value": LEAVES[kind]}, {}))


@pytest.mark.parametrize("order", ["transposed", "strided", "fortran"])
def test_array_comes_back_whatever_its_layout_in_memory(path, order):
    values = np.random.default_rng(0).normal(size=(6, 4, 8))
    draws = {"transposed": values.T, "strided": values[::2, :, ::3], "fortran": np.asfortranarray(values)}[order]
    with Checkpoint(path, IDENTITY) as checkpoint:
        checkpoint.save({}, {"z": draws})
        np.testing.assert_array_equal(checkpoint.load()[1]["z"], draws)


def test_order_in_memory_comes_back_so_that_products_round_the_same(path):
    values = np.random.default_rng(0).normal(size=(7, 5))
    state = {"c": values, "fortran": np.asfortranarray(values), "transposed": values.T, "line": values[0]}
    with Checkpoint(path, IDENTITY) as checkpoint:
        checkpoint.save(state, {})
        found = checkpoint.load()[0]
    assert {name: array.strides for name, array in found.items()} == {name: a.strides for name, a in state.items()}


@pytest.mark.parametrize("key", ["a/b", ".", "..", "a.b", "/", " ", "%2E", "%", "Å", "0", "a\\b", "x[0]", "\n"])
def test_any_key_comes_back(path, key):
    state, draws = {key: 1, "other": {key: {key: 2.0}}}, {key: np.ones((2, 3))}
    with Checkpoint(path, IDENTITY) as checkpoint:
        checkpoint.save(state, draws)
        assert_same(checkpoint.load(), (state, draws))


def random_tree(choice: random.Random, depth: int) -> dict:
    """A random nested mapping of values of every kind."""
    rng = np.random.default_rng(choice.randrange(2**32))
    dtypes = (np.float64, np.float32, np.complex128, np.int64, np.uint8, np.bool_)

    def array() -> np.ndarray:
        dtype = np.dtype(choice.choice(dtypes))
        shape = tuple(choice.choices(range(4), k=choice.randrange(4)))
        count = int(np.prod(shape, dtype=int)) * dtype.itemsize
        raw = rng.integers(0, 2 if dtype.kind == "b" else 256, count, dtype=np.uint8)  # NaNs of every payload too
        return raw.view(dtype).reshape(shape)

    makers = (
        array,
        lambda: dtypes[choice.randrange(5)](choice.randrange(200)),
        lambda: choice.getrandbits(choice.randrange(1, 300)),
        lambda: choice.uniform(-1, 1) * 10.0 ** choice.randrange(-320, 308),
        lambda: "".join(chr(choice.randrange(0xD800)) for _ in range(choice.randrange(20))),
        lambda: choice.choice((None, True, False)),
        lambda: random_tree(choice, depth - 1) if depth else {},
    )
    keys = {"".join(choice.choices("ab/.%[]0 Å", k=choice.randrange(1, 6))) for _ in range(choice.randrange(8))}
    return {key: choice.choice(makers)() for key in sorted(keys, key=lambda key: choice.random())}


@pytest.mark.parametrize("seed", range(40))
def test_random_states_come_back(path, seed):
    choice = random.Random(seed)
    state = random_tree(choice, 3)
    chains, draws = choice.randrange(1, 5), choice.randrange(6)
    rng = np.random.default_rng(seed)
    arrays = {f"site.{i}": rng.normal(size=(chains, draws, *rng.integers(0, 4, i))) for i in range(3)}
    with Checkpoint(path, IDENTITY) as checkpoint:
        checkpoint.save(state, arrays)
    with Checkpoint(path, IDENTITY) as checkpoint:
        assert_same(checkpoint.load(), (state, arrays))


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"a": {"b": [1, 2]}}, r"state\['a'\]\['b'\]: expected a number, text, None, .* got list"),
        ({"a": (1,)}, r"state\['a'\]: .* got tuple"),
        ({"a": np.array(["x"])}, r"state\['a'\]: .* got ndarray of <U1"),
        ({"a": np.array([object()])}, r"state\['a'\]: .* got ndarray of object"),
        ({"a": np.ma.array([1.0], mask=[True])}, r"state\['a'\]: .* got MaskedArray of float64"),
        ({"a": 1j}, r"state\['a'\]: .* got complex"),
        ({1: 2}, r"state: expected keys that are non-empty strings, got 1"),
        ({"": 2}, r"state: expected keys that are non-empty strings, got ''"),
    ],
)
def test_value_that_would_not_come_back_is_refused_by_name_and_nothing_changes(saved, state, message):
    before = saved.read_bytes()
    with Checkpoint(saved, IDENTITY) as checkpoint, pytest.raises(TypeError, match=message):
        checkpoint.save(state, {})
    assert saved.read_bytes() == before
    assert names(saved.parent) == ["run.h5"]


@pytest.mark.parametrize(
    ("draws", "error", "message"),
    [
        ({"a": np.ones((2, 3)), "b": np.ones((2, 4))}, ValueError, r"same number of draws, got .*'b': \(2, 4\)"),
        ({"a": np.ones(3)}, ValueError, r"shape \(chains, draws, \.\.\.\)"),
        ({"a": [[1.0]]}, TypeError, r"draws\['a'\]: expected a NumPy array, got list"),
    ],
)
def test_draws_of_unequal_length_are_refused(path, draws, error, message):
    with Checkpoint(path, IDENTITY) as checkpoint, pytest.raises(error, match=message):
        checkpoint.save({}, draws)


def test_nothing_is_loaded_before_the_first_save_and_the_last_one_after(path):
    with Checkpoint(path, IDENTITY) as checkpoint:
        assert checkpoint.load() is None
        for n in (2, 5, 1):
            checkpoint.save(*step(n))
            assert_same(checkpoint.load(), step(n))
    with Checkpoint(path, IDENTITY) as checkpoint:
        assert_same(checkpoint.load(), step(1))


def test_only_the_file_stays_after_closing_and_nothing_after_removing(path):
    with Checkpoint(path, IDENTITY) as checkpoint:
        assert names(path.parent) == [".run.h5.lock"]
        checkpoint.save(*step(2))
        assert names(path.parent) == [".run.h5.lock", "run.h5"]
    assert names(path.parent) == ["run.h5"]
    Checkpoint(path, IDENTITY).remove()
    assert names(path.parent) == []


def test_refused_file_is_not_held_on_to_by_the_error(saved):
    with pytest.raises(ValueError, match="another run") as caught:
        Checkpoint(saved, {"method": "other"})
    Checkpoint(saved, IDENTITY).close()
    assert caught.tb is not None  # it still refers to what was refused


def test_closed_checkpoint_refuses_to_save_and_to_remove(saved):
    checkpoint = Checkpoint(saved, IDENTITY)
    checkpoint.close()
    checkpoint.close()
    with pytest.raises(ValueError, match="expected an open checkpoint, got one that was closed; open it again"):
        checkpoint.save({}, {})
    with pytest.raises(ValueError, match="expected an open checkpoint"):
        checkpoint.remove()
    assert saved.exists()


def test_other_hdf5_readers_find_the_draws(saved):
    with h5py.File(saved) as file:
        np.testing.assert_array_equal(file["draws/z"], step(3)[1]["z"])
        assert file.attrs["versions"].startswith('{"bayesprof": "')


def test_link_stays_a_link(saved, tmp_path):
    link = tmp_path / "link.h5"
    link.symlink_to(saved)
    with Checkpoint(link, IDENTITY) as checkpoint:
        checkpoint.save(*step(4))
    assert link.is_symlink()
    with Checkpoint(saved, IDENTITY) as checkpoint:
        assert checkpoint.load()[0]["step"] == 4


# -- whose file it is


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (
            {"seed": 2},
            r"another run: expected seed = 2, found 1; repeat the call that it belongs to, or choose another",
        ),
        ({"seed": 2, "chains": 4}, r"expected seed = 2, found 1; expected chains = 4, found 2; repeat"),
        ({"new": None}, r"expected new = null, found nothing; repeat"),
        ({"sites": ["a.y", "a.x"]}, r'expected sites = \["a.y", "a.x"\], found \["a.x", "a.y"\]; repeat'),
        ({"seed": True}, r"expected seed = true, found 1; repeat"),
        ({"seed": 1.0}, r"expected seed = 1\.0, found 1; repeat"),
        (
            {"sites": [f"component.{i}" for i in range(100)]},
            r'expected sites = \["component.0", .{150,200}\.\.\., found',
        ),
    ],
)
def test_another_identity_is_refused_with_every_difference(saved, other, message):
    before = saved.read_bytes()
    with pytest.raises(ValueError, match=message):
        Checkpoint(saved, {**IDENTITY, **other})
    assert saved.read_bytes() == before
    assert names(saved.parent) == ["run.h5"]


def test_missing_entry_of_the_identity_is_named(saved):
    with pytest.raises(ValueError, match='another run: expected method = nothing, found "walk"; repeat'):
        Checkpoint(saved, {name: value for name, value in IDENTITY.items() if name != "method"})


def test_same_identity_in_another_order_or_with_tuples_is_accepted(saved):
    identity = {name: tuple(v) if isinstance(v, list) else v for name, v in reversed(list(IDENTITY.items()))}
    with Checkpoint(saved, identity) as checkpoint:
        assert checkpoint.load() is not None


def test_identity_of_thousands_of_sites_is_kept(path):
    identity = {"sites": [f"component_{i}.ellipticity" for i in range(20_000)]}
    with Checkpoint(path, identity) as checkpoint:
        checkpoint.save({}, {})
    Checkpoint(path, identity).close()


def test_identity_that_json_cannot_hold_is_refused_by_name(path):
    with pytest.raises(TypeError, match="identity 'data': expected what JSON can hold, got ndarray"):
        Checkpoint(path, {"data": np.ones(2)})
    assert names(path.parent) == []


def test_other_version_of_a_library_is_a_warning(saved, monkeypatch):
    monkeypatch.setattr(module, "version", lambda library: {"bayesprof": "99.0", "torch": "9.9"}[library])
    with (
        pytest.warns(
            UserWarning, match=r"was saved by bayesprof \S+, now 99.0 and torch \S+, now 9.9: the draws go on"
        ),
        Checkpoint(saved, IDENTITY) as checkpoint,
    ):
        assert_same(checkpoint.load(), step(3))


def hdf5(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file["z"] = np.ones(3)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: path.write_text("years of work"), "got a file that begins with b'years of wor', which is left"),
        (lambda path: path.touch(), "expected a bayesprof checkpoint or no file, got an empty file, which is left"),
        (hdf5, "got another HDF5 file, which is left as it is; choose another path"),
        (
            lambda path: path.write_bytes(b"bayesprof checkpoint, format 27\n" + bytes(1000)),
            "expected a checkpoint of format 2, got format b'27'; resume with the version",
        ),
    ],
    ids=["text", "empty", "hdf5", "format"],
)
def test_file_that_is_no_checkpoint_is_refused_and_left_alone(path, make, message):
    make(path)
    before = path.read_bytes()
    with pytest.raises(ValueError, match=message):
        Checkpoint(path, IDENTITY)
    assert path.read_bytes() == before
    assert names(path.parent) == ["run.h5"]


# -- damage


def assert_refused(path: Path) -> None:
    before = path.read_bytes()
    with pytest.raises(ValueError, match=r"is damaged|expected a"):  # with another first line it isn't a checkpoint
        Checkpoint(path, IDENTITY)
    assert path.read_bytes() == before


def test_file_with_any_one_byte_changed_is_refused(saved):
    content = saved.read_bytes()
    choice = random.Random(5)
    places = [*range(0, 512, 7), *choice.sample(range(512, len(content)), 150), len(content) - 1]
    for place in places:
        damaged = bytearray(content)
        damaged[place] ^= 1 << choice.randrange(8)
        saved.write_bytes(damaged)
        assert_refused(saved)
    saved.write_bytes(content)
    Checkpoint(saved, IDENTITY).close()


def test_file_cut_short_or_with_more_at_its_end_is_refused(saved):
    content = saved.read_bytes()
    for length in (0, 1, 20, 31, 500, 511, 512, 513, 1000, len(content) // 2, len(content) - 1):
        saved.write_bytes(content[:length])
        assert_refused(saved)
    saved.write_bytes(content + b"\0")
    assert_refused(saved)


def test_file_with_a_stretch_of_zeros_or_noise_is_refused(saved):
    content = saved.read_bytes()
    for stretch in (bytes(600), np.random.default_rng(1).bytes(600)):
        saved.write_bytes(content[:700] + stretch + content[1300:])
        with pytest.raises(ValueError, match=f"is damaged: its {len(content)} bytes aren't those that were written"):
            Checkpoint(saved, IDENTITY)


def test_damage_while_the_run_goes_on_is_noticed_by_load(saved):
    with Checkpoint(saved, IDENTITY) as checkpoint:
        saved.write_bytes(saved.read_bytes()[:-1])
        with pytest.raises(ValueError, match="is damaged"):
            checkpoint.load()


# -- the end of a process

SAVING = """
with checkpoint.Checkpoint(path, {"method": "walk"}) as saving:
    found = saving.load()
    n = 0 if found is None else found[0]["step"]
    while True:
        n += 1
        saving.save(*step(n))
        print(n, flush=True)
"""


@pytest.mark.parametrize("kills", [6, pytest.param(20, marks=pytest.mark.slow)])
def test_after_kills_at_random_moments_the_file_is_whole_and_nothing_saved_is_lost(path, kills):
    choice = random.Random(11)
    last = 0
    for _ in range(kills):
        with python(SAVING, path) as process:
            first = int(process.stdout.readline())
            assert first == last + 1  # goes on where the last one was killed
            with pytest.raises(subprocess.TimeoutExpired):
                process.wait(choice.uniform(0.0, 0.1))  # a save takes 2 to 5 ms
            process.kill()
            told = [first, *map(int, process.stdout.read().split())]
            assert process.wait() == -signal.SIGKILL
        with Checkpoint(path, {"method": "walk"}) as checkpoint:
            found = checkpoint.load()
        last = found[0]["step"]
        assert last in (told[-1], told[-1] + 1)  # the last one, or one more that it didn't live to tell
        assert_same(found, step(last))
        assert names(path.parent) == ["run.h5"]


DYING = """
import builtins

def die(*arguments):
    os.kill(os.getpid(), 9)

class Torn:
    def __init__(self, *arguments):
        self.file = builtins.open(*arguments)

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.file.close()

    def write(self, content):
        self.file.write(content[: len(content) // 2])
        self.file.flush()
        die()

replace, fsync = os.replace, os.fsync
with checkpoint.Checkpoint(path, {"method": "walk"}) as saving:
    saving.save(*step(3))
    moment = sys.argv[2]
    if moment == "half written":
        checkpoint.open = Torn
    elif moment == "written":
        os.fsync = die
    elif moment == "flushed":
        os.replace = die
    elif moment == "renamed":
        os.replace = lambda *paths: die(replace(*paths))
    else:
        calls = []
        os.fsync = lambda descriptor: die() if calls else calls.append(fsync(descriptor))
    saving.save(*step(4))
"""


@pytest.mark.parametrize(
    ("moment", "survivor", "left"),
    [
        ("half written", 3, [".run.h5.lock", ".run.h5.partial", "run.h5"]),
        ("written", 3, [".run.h5.lock", ".run.h5.partial", "run.h5"]),
        ("flushed", 3, [".run.h5.lock", ".run.h5.partial", "run.h5"]),
        ("renamed", 4, [".run.h5.lock", "run.h5"]),
        ("folder", 4, [".run.h5.lock", "run.h5"]),
    ],
)
def test_killed_between_any_two_steps_of_a_save_one_of_both_files_is_left_whole(path, moment, survivor, left):
    with python(DYING, path, moment) as process:
        assert process.wait() == -signal.SIGKILL
    assert names(path.parent) == left
    with Checkpoint(path, {"method": "walk"}) as checkpoint:
        assert names(path.parent) == [".run.h5.lock", "run.h5"]
        assert_same(checkpoint.load(), step(survivor))


def test_interrupt_while_saving_leaves_the_last_checkpoint(saved, monkeypatch):
    def interrupt(descriptor):
        raise KeyboardInterrupt

    with Checkpoint(saved, IDENTITY) as checkpoint:
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", interrupt)
            with pytest.raises(KeyboardInterrupt):
                checkpoint.save(*step(4))
        assert_same(checkpoint.load(), step(3))
        assert names(saved.parent) == [".run.h5.lock", "run.h5"]
        assert checkpoint.save(*step(4))


def test_file_is_on_the_disk_before_it_is_renamed_and_the_folder_after(saved, monkeypatch):
    calls = []
    fsync, replace = os.fsync, os.replace

    def logged_fsync(descriptor):
        calls.append("folder" if os.path.isdir(f"/proc/self/fd/{descriptor}") else os.fstat(descriptor).st_size)
        fsync(descriptor)

    def logged_replace(source, target):
        calls.append((Path(source).name, Path(target).name))
        replace(source, target)

    monkeypatch.setattr(os, "fsync", logged_fsync)
    monkeypatch.setattr(os, "replace", logged_replace)
    with Checkpoint(saved, IDENTITY) as checkpoint:
        checkpoint.save(*step(4))
    assert calls == [saved.stat().st_size, (".run.h5.partial", "run.h5"), "folder"]


# -- the disk

# arguments: path, and how to run short ("limit" of file sizes, "disk", "memory")
SHORT = """
import resource
limits = {"limit": resource.RLIMIT_FSIZE, "memory": resource.RLIMIT_AS}
short = sys.argv[2]
with checkpoint.Checkpoint(path, {"method": "walk"}) as saving:
    saving.save(*step(3))
    state, draws = step(3)
    many = {"z": np.ones((2, 100_000, 7))}
    if short in limits:
        with open("/proc/self/statm") as pages:
            used = int(pages.read().split()[0]) * resource.getpagesize()
        before = resource.getrlimit(limits[short])
        resource.setrlimit(limits[short], (200_000 if short == "limit" else used + 2**22, before[1]))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for attempt in range(4):
            assert not saving.save({"step": 4}, many)
            assert sorted(os.listdir(os.path.dirname(path))) == [".run.h5.lock", "run.h5"]
            found = saving.load()
            assert found[0]["step"] == 3 and (found[1]["z"] == draws["z"]).all()
    assert len(caught) == 1
    print(caught[0].message)
    if short in limits:
        resource.setrlimit(limits[short], before)
    else:
        many = {"z": many["z"][:, :20_000]}
    assert saving.save({"step": 5}, many)
    found = saving.load()
    assert found[0]["step"] == 5 and (found[1]["z"] == many["z"]).all()
    print("recovered")
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits and /proc as Linux has them")
@pytest.mark.parametrize(("short", "reason"), [("limit", "File too large"), ("memory", "Unable to allocate")])
def test_when_short_of_room_the_last_checkpoint_stays_and_there_is_one_warning(path, short, reason):
    with python(SHORT, path, short) as process:
        output = process.stdout.read()
    assert process.returncode == 0
    assert f"can't be saved now ({reason}" in output
    assert output.endswith("recovered\n")


def test_on_a_full_disk_the_last_checkpoint_stays_and_there_is_one_warning(tmp_path):
    mount = ["unshare", "--mount", "--map-root-user", "sh", "-c", 'mount -t tmpfs -o size=4m none "$0" && exec "$@"']
    if (
        shutil.which("unshare") is None
        or subprocess.run([*mount, tmp_path, "true"], capture_output=True, check=False).returncode
    ):
        pytest.skip("no small file system can be mounted here")
    command = [*mount, tmp_path, sys.executable, "-c", PREAMBLE + SHORT, tmp_path / "run.h5", "disk"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "can't be saved now (No space left on device); the run goes on" in done.stdout
    assert done.stdout.endswith("recovered\n")


@pytest.mark.parametrize("call", ["fsync", "replace"])
@pytest.mark.parametrize("code", [errno.EIO, errno.EDQUOT, errno.EROFS, errno.ESTALE])
def test_failing_system_call_costs_a_save_and_a_warning_for_each_outage(saved, monkeypatch, call, code):
    def failing(*arguments):
        raise OSError(code, os.strerror(code))

    with Checkpoint(saved, IDENTITY) as checkpoint:
        for outage in (1, 2):
            with monkeypatch.context() as patch:
                patch.setattr(os, call, failing)
                with pytest.warns(UserWarning, match=rf"can't be saved now \({os.strerror(code)}\); the run goes on"):
                    assert not checkpoint.save(*step(9))
                assert not checkpoint.save(*step(9))  # a second warning would be an error
                assert names(saved.parent) == [".run.h5.lock", "run.h5"]
            assert_same(checkpoint.load(), step(2 + outage))
            assert checkpoint.save(*step(3 + outage))


def test_file_that_a_killed_run_left_does_not_stop_saves(saved):
    (saved.parent / ".run.h5.partial").write_bytes(b"half")
    with Checkpoint(saved, IDENTITY) as checkpoint:
        (saved.parent / ".run.h5.partial").write_bytes(b"half")
        assert checkpoint.save(*step(4))
        assert_same(checkpoint.load(), step(4))
    assert names(saved.parent) == ["run.h5"]


def test_place_where_nothing_can_be_written_is_refused_before_the_run(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"expected the folder '.*/none', there is none; make it first"):
        Checkpoint(tmp_path / "none" / "run.h5", IDENTITY)
    with pytest.raises(IsADirectoryError, match="expected a file, or nothing, got a folder; name a file in it"):
        Checkpoint(tmp_path, IDENTITY)
    (tmp_path / "file").touch()
    with pytest.raises(FileNotFoundError, match=r"expected the folder '.*/file', there is none"):
        Checkpoint(tmp_path / "file" / "run.h5", IDENTITY)
    assert names(tmp_path) == ["file"]


@pytest.mark.skipif(not os.path.isdir("/sys/kernel"), reason="no folder that is read-only for everyone")
def test_read_only_folder_is_refused_before_the_run():
    with pytest.raises(OSError, match=r"can't write beside '/sys/kernel/run\.h5' \(.*\); choose another folder"):
        Checkpoint("/sys/kernel/run.h5", IDENTITY)


def test_full_disk_is_refused_before_the_run(path, monkeypatch):
    def full(descriptor, content):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        with pytest.raises(OSError, match=r"can't write beside .* \(No space left on device\)"):
            Checkpoint(path, IDENTITY)
    Checkpoint(path, IDENTITY).close()  # the lock was let go


# -- two processes


def test_file_in_use_is_refused_until_it_is_closed(saved):
    with Checkpoint(saved, IDENTITY) as checkpoint:
        with pytest.raises(BlockingIOError, match=rf"run.h5' is in use by process {os.getpid()} on .*; wait for it"):
            Checkpoint(saved, IDENTITY)
        assert checkpoint.save(*step(4))
    Checkpoint(saved, IDENTITY).close()


def test_file_is_let_go_with_the_object(saved):
    checkpoint = Checkpoint(saved, IDENTITY)
    del checkpoint
    Checkpoint(saved, IDENTITY).close()
    assert names(saved.parent) == ["run.h5"]


def test_file_of_another_process_is_refused_until_that_is_killed(path):
    with python(SAVING, path) as process:
        process.stdout.readline()
        with pytest.raises(BlockingIOError, match=f"in use by process {process.pid} on "):
            Checkpoint(path, {"method": "walk"})
        process.kill()
        process.wait()
    Checkpoint(path, {"method": "walk"}).close()
    assert names(path.parent) == ["run.h5"]


TAKING = """
taken = refused = 0
end = time.monotonic() + 1.0
while time.monotonic() < end:
    try:
        held = checkpoint.Checkpoint(path, {})
    except BlockingIOError:
        refused += 1
        continue
    os.close(os.open(path + ".alone", os.O_CREAT | os.O_EXCL))
    os.unlink(path + ".alone")
    held.close()
    taken += 1
print(taken, refused)
"""


def test_never_two_of_four_processes_hold_the_file_while_it_changes_hands(path):
    processes = [python(TAKING, path) for _ in range(4)]
    counts = np.array([process.communicate()[0].split() for process in processes], dtype=int)
    assert [process.returncode for process in processes] == [0] * 4
    assert (counts[:, 0] > 10).all()
    assert counts[:, 1].sum() > 0
    assert names(path.parent) == []


def test_file_system_without_locks_is_a_warning(path, monkeypatch):
    def unsupported(descriptor, operation):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(module.fcntl, "flock", unsupported)
    with pytest.warns(UserWarning, match="on a file system without locks; see to it that no second run uses it"):
        checkpoint = Checkpoint(path, IDENTITY)
    assert checkpoint.save(*step(2))
    checkpoint.remove()
    assert names(path.parent) == []


def test_end_of_a_forked_process_leaves_the_lock_with_its_parent(saved):
    with Checkpoint(saved, IDENTITY) as checkpoint:
        child = os.fork()
        if not child:
            checkpoint.close()
            os._exit(0)
        os.waitpid(child, 0)
        assert (saved.parent / ".run.h5.lock").exists()
        with pytest.raises(BlockingIOError):
            Checkpoint(saved, IDENTITY)


# -- when to save


def test_saves_are_seconds_apart(path, monkeypatch):
    clock = Clock(monkeypatch)
    with Checkpoint(path, IDENTITY) as checkpoint:
        for _ in range(3):
            assert not checkpoint.due()
            clock.now += 4.9
            assert not checkpoint.due()
            clock.now += 0.2
            assert checkpoint.due()
            checkpoint.save({}, {})


@pytest.mark.parametrize("seconds_of_a_save", [0.001, 0.1, 0.5, 3.0, 60.0])
def test_saves_take_a_fiftieth_of_the_time(path, monkeypatch, seconds_of_a_save):
    clock, replace = Clock(monkeypatch), os.replace

    def slow(source, target):
        clock.now += seconds_of_a_save
        replace(source, target)

    monkeypatch.setattr(os, "replace", slow)
    start, saves = clock.now, 0
    with Checkpoint(path, IDENTITY) as checkpoint:
        while clock.now < start + max(400.0, 300 * seconds_of_a_save):
            clock.now += 0.5
            if checkpoint.due():
                checkpoint.save({}, {})
                saves += 1
    # the first comes before its cost is known; from then on a fiftieth
    assert (saves - 1) * seconds_of_a_save <= 0.02 * (clock.now - start)
    assert saves >= 0.8 * min((clock.now - start) / (50 * seconds_of_a_save), (clock.now - start) / 5.5)


def test_saves_that_fail_are_not_tried_more_often(saved, monkeypatch):
    clock = Clock(monkeypatch)

    def failing(source, target):
        clock.now += 1.0
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "replace", failing)
    with Checkpoint(saved, IDENTITY) as checkpoint, warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        checkpoint.save({}, {})
        clock.now += 49.0
        assert not checkpoint.due()
        clock.now += 2.0
        assert checkpoint.due()


def test_time_to_collect_the_draws_counts_as_that_of_the_save(path, monkeypatch):
    clock = Clock(monkeypatch)
    with Checkpoint(path, IDENTITY) as checkpoint:
        clock.now += 6.0
        assert checkpoint.due()
        clock.now += 1.0
        checkpoint.save({}, {})
        clock.now += 49.0
        assert not checkpoint.due()
        clock.now += 2.0
        assert checkpoint.due()
        checkpoint.save({}, {})
        assert not checkpoint.due()
        clock.now += 6.0
        checkpoint.save({}, {})  # wasn't due: the time before it isn't its own
        clock.now += 6.0
        assert checkpoint.due()


def test_times_between_saves_can_be_set(path, monkeypatch):
    class Often(Checkpoint):
        seconds_between = 0.0
        share = 1.0

    Clock(monkeypatch)
    with Often(path, IDENTITY) as checkpoint:
        assert checkpoint.due()
