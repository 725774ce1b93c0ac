# SPDX-License-Identifier: Apache-2.0
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from vllm.sm12x.loading.facts import filesystem
from vllm.sm12x.loading.facts.filesystem import FileSystem, Kind, Mount

SHM = Path("/dev/shm")

# A host with a space in a mount point, a stack of two mounts, FUSE, and an overlay.
MOUNTINFO = r"""
21 27 0:20 / /proc rw,nosuid - proc proc rw
27 1 259:2 / / rw,relatime shared:1 - ext4 /dev/nvme0n1p2 rw
40 27 259:5 / /data rw shared:7 master:2 - xfs /dev/nvme1n1 rw,attr2
41 40 0:50 / /data/my\040models rw - nfs4 server:/a\040b rw,vers=4.2
42 40 0:51 / /data/stack rw - nfs server:/c rw
43 42 0:52 / /data/stack rw - ext4 /dev/sdb1 rw
44 40 0:53 / /data/fuse rw - fuse.sshfs user@host: rw,user_id=0
45 40 0:54 / /data/fuseblk rw - fuseblk /dev/sdc1 rw
46 27 0:55 / /ram rw - tmpfs  rw,size=1k
47 27 0:56 / /lustre rw - lustre mgs@tcp:/fs rw
48 27 0:57 / /hidden rw - overlay overlay rw,lowerdir=/no/such/l/A:/no/such/l/B,upperdir=/no/up
49 27 0:58 / /back\134slash\011tab rw - btrfs /dev/sdd rw,subvol=/x
this line says nothing
"""
EXT_MAGIC, OVERLAY_MAGIC, FUSE_MAGIC = 0xEF53, 0x794C7630, 0x65735546


@pytest.fixture(scope="module")
def mounts() -> list[Mount]:
    return filesystem.parse_mountinfo(MOUNTINFO)


def test_every_well_formed_line_of_mountinfo_is_read(mounts: list[Mount]) -> None:
    assert len(mounts) == 12
    assert mounts[2] == Mount(
        device=(259, 5), root="/", point="/data", type="xfs", options="rw,attr2"
    )
    assert mounts[-1].point == "/back\\slash\ttab"


def test_every_line_of_this_kernel_is_read() -> None:
    lines = filesystem.MOUNTINFO.read_text(encoding="utf-8").count("\n")
    assert len(filesystem.read_mounts()) == lines


def test_no_mountinfo_means_no_mounts(tmp_path: Path) -> None:
    assert filesystem.read_mounts(tmp_path / "missing") == []


@pytest.mark.parametrize(
    ("path", "type_", "kind"),
    [
        ("/home/x/a.safetensors", "ext4", Kind.LOCAL),
        ("/data/a.safetensors", "xfs", Kind.LOCAL),
        ("/data/my models/a.safetensors", "nfs4", Kind.NETWORK),
        ("/data/my models2/a.safetensors", "xfs", Kind.LOCAL),
        ("/data/stack/a.safetensors", "ext4", Kind.LOCAL),
        ("/data/fuse/a.safetensors", "fuse.sshfs", Kind.NETWORK),
        ("/data/fuseblk/a.safetensors", "fuseblk", Kind.NETWORK),
        ("/ram/a.safetensors", "tmpfs", Kind.MEMORY),
        ("/lustre/a.safetensors", "lustre", Kind.NETWORK),
        ("/hidden/a.safetensors", "overlay with hidden layers", Kind.UNKNOWN),
        ("/back\\slash\ttab/a.safetensors", "btrfs", Kind.LOCAL),
    ],
)
def test_without_statfs_the_file_system_is_that_of_the_mount(
    mounts: list[Mount], path: str, type_: str, kind: Kind
) -> None:
    assert filesystem.identify(path, mounts) == FileSystem(type=type_, kind=kind)


def test_the_kernels_answer_wins_over_a_mount_that_is_hidden(mounts: list[Mount]) -> None:
    found = filesystem.identify("/data/my models/a", mounts, EXT_MAGIC)
    assert found == FileSystem(type="ext4", kind=Kind.LOCAL)


def test_mountinfo_tells_file_systems_of_one_magic_apart() -> None:
    mounts = filesystem.parse_mountinfo("1 0 8:1 / / rw - ext2 /dev/sda1 rw\n")
    assert filesystem.identify("/a", mounts, EXT_MAGIC).type == "ext2"


def test_an_unknown_magic_is_not_taken_for_the_local_mount_around_it(mounts: list[Mount]) -> None:
    found = filesystem.identify("/home/a", mounts, 0x12345678)
    assert found == FileSystem(type="", kind=Kind.UNKNOWN)
    assert filesystem.identify("/home/a", mounts, FUSE_MAGIC).type == "fuse"


@pytest.mark.parametrize(
    ("mounted", "magic"),
    [
        ("ceph", 0x00C36400), ("gpfs", 0x47504653), ("beegfs", 0x19830326), ("lustre", 0x0BD00BD0),
        ("cifs", 0xFE534D42), ("smb3", 0xFE534D42), ("cifs", 0xFF534D42), ("virtiofs", FUSE_MAGIC),
        ("9p", 0x01021997), ("fuse.juicefs", FUSE_MAGIC), ("wekafs", 0x7DEA5CAF), ("nfs4", 0x6969),
    ],
)  # fmt: skip
def test_cluster_file_systems_are_known_by_magic_and_name(mounted: str, magic: int) -> None:
    mounts = filesystem.parse_mountinfo(f"1 0 0:90 / /m rw - {mounted} server:/x rw\n")
    found = filesystem.identify("/m/a", mounts, magic)
    assert found == FileSystem(type=mounted, kind=Kind.NETWORK)


def test_nothing_known_at_all_is_unknown() -> None:
    assert filesystem.identify("/no/such/file", []) == FileSystem(type="", kind=Kind.UNKNOWN)


def test_an_overlay_is_what_its_visible_layers_are(tmp_path: Path) -> None:
    upper = tmp_path / "with:colon"
    upper.mkdir()
    escaped = str(upper).replace(":", "\\:")
    line = f"9 1 0:99 / /merged rw - overlay overlay rw,lowerdir={tmp_path}:{escaped}\n"
    found = filesystem.identify("/merged/a", filesystem.parse_mountinfo(line), OVERLAY_MAGIC)
    below = filesystem.identify(str(tmp_path), filesystem.read_mounts())
    assert found.kind is below.kind


@pytest.mark.parametrize(
    ("options", "layers"),
    [
        ("rw,lowerdir=/a:/b,upperdir=/c,workdir=/w", ["/c", "/a", "/b"]),
        (r"rw,lowerdir=/a\:x:/b", ["/a:x", "/b"]),
        ("ro,lowerdir+=/a:x,lowerdir+=/b,datadir+=/d", ["/a:x", "/b", "/d"]),
        ("ro,lowerdir=/a::/data", ["/a", "/data"]),
        ("rw,xino=off", []),
    ],
)
def test_all_layers_of_an_overlay_are_found(options: str, layers: list[str]) -> None:
    assert filesystem.overlay_layers(options) == layers


def type_by_stat(path: Path) -> str:
    """What coreutils says, as an independent witness."""
    command = ["stat", "--file-system", "--format=%t", str(path)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


@pytest.mark.parametrize("path", ["/", "/dev/shm", "/proc", "/sys"])
def test_statfs_agrees_with_coreutils(path: str) -> None:
    assert filesystem.statfs_magic(path) == int(type_by_stat(Path(path)), 16)


def test_statfs_of_a_missing_file_says_nothing(tmp_path: Path) -> None:
    assert filesystem.statfs_magic(str(tmp_path / "missing")) is None


@pytest.fixture
def shm(tmp_path: Path) -> Iterator[Path]:
    if not os.access(SHM, os.W_OK) or type_by_stat(SHM) != "1021994":
        pytest.skip("needs a writable tmpfs on /dev/shm")
    if SHM.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("needs a temporary folder outside /dev/shm")
    folder = SHM / f"vllm-sm12x-test-{os.getpid()}"
    folder.mkdir()
    yield folder
    for file in folder.iterdir():
        file.unlink()
    folder.rmdir()


def test_shards_behind_symbolic_links_are_looked_up_where_they_are(
    tmp_path: Path, shm: Path
) -> None:
    (tmp_path / "1.safetensors").write_bytes(b"x" * 10)
    (shm / "blob").write_bytes(b"x" * 7)
    (tmp_path / "2.safetensors").symlink_to(shm / "blob")
    here = filesystem.survey([tmp_path / "1.safetensors"])
    both = filesystem.survey([tmp_path / "1.safetensors", tmp_path / "2.safetensors"])
    assert both.total_bytes == 17
    assert both.filesystems == (*here.filesystems, FileSystem(type="tmpfs", kind=Kind.MEMORY))


def test_a_missing_shard_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        filesystem.survey([tmp_path / "missing"])


@pytest.fixture
def mount() -> Iterator[Callable[..., None]]:
    """Really mount something on a folder, for a test that then sees the kernel's own lines."""
    mounted: list[str] = []

    def mount_on(point: Path, *arguments: str) -> None:
        command = ["mount", *arguments, str(point)]
        try:
            done = subprocess.run(command, check=False, capture_output=True, text=True)
        except FileNotFoundError:
            pytest.skip("needs mount(8)")
        if done.returncode != 0:
            pytest.skip(f"may not mount here: {done.stderr.strip()}")
        mounted.append(str(point))

    yield mount_on
    for point in reversed(mounted):
        subprocess.run(["umount", point], check=True)


def test_a_mount_point_with_a_space_is_found(tmp_path: Path, mount: Callable[..., None]) -> None:
    point = tmp_path / "my models"
    point.mkdir()
    mount(point, "-t", "ramfs", "none")
    (point / "a").write_bytes(b"x")
    found = filesystem.find_mount(str(point / "a"), filesystem.read_mounts())
    assert found is not None
    assert (found.point, found.type) == (str(point), "ramfs")
    assert filesystem.survey([point / "a"]).filesystems == (
        FileSystem(type="ramfs", kind=Kind.MEMORY),
    )


def test_of_a_stack_of_mounts_the_upper_one_is_found(
    tmp_path: Path, mount: Callable[..., None]
) -> None:
    point, source = tmp_path / "point", tmp_path / "source"
    point.mkdir()
    source.mkdir()
    expected = filesystem.survey([source]).filesystems
    mount(point, "-t", "tmpfs", "none")
    mount(point, "--bind", str(source))
    (point / "a").write_bytes(b"x")
    assert filesystem.survey([point / "a"]).filesystems == expected


def test_a_mount_hidden_by_a_later_one_above_it_is_not_found(
    tmp_path: Path, mount: Callable[..., None]
) -> None:
    outer = tmp_path / "outer"
    (outer / "inner").mkdir(parents=True)
    mount(outer / "inner", "-t", "ramfs", "none")
    mount(outer, "-t", "tmpfs", "none")
    (outer / "inner").mkdir()
    found = filesystem.find_mount(str(outer / "inner"), filesystem.read_mounts())
    assert found is not None
    assert found.type == "tmpfs"


@pytest.mark.parametrize("layer", ["lower", "upper"])
def test_a_real_overlay_is_told_by_its_layers(
    tmp_path: Path, mount: Callable[..., None], layer: str
) -> None:
    point, ram = tmp_path / "merged", tmp_path / "ram"
    for folder in (point, ram, tmp_path / "disk"):
        folder.mkdir()
    mount(ram, "-t", "tmpfs", "none")
    lower, upper = tmp_path / "disk", ram / "upper"
    for folder in (upper, ram / "work"):
        folder.mkdir()
    (lower / "lower").write_bytes(b"x")
    (upper / "upper").write_bytes(b"x")
    options = f"lowerdir={lower},upperdir={upper},workdir={ram / 'work'}"
    mount(point, "-t", "overlay", "-o", options, "overlay")
    on = {"lower": lower, "upper": upper}[layer]
    below = filesystem.identify(str(on / layer), filesystem.read_mounts())
    (found,) = filesystem.survey([point / layer]).filesystems
    assert found == FileSystem(type=f"overlay on {below}", kind=below.kind)
    assert (below.kind is Kind.MEMORY) == (layer == "upper")
    # The bytes of both layers are told apart, though the overlay is one device.
    both = filesystem.survey([point / "lower", point / "upper"])
    assert [size for _, size in both.bytes_on] == [1, 1]


@pytest.mark.parametrize("type_", ["ext4", "ext2", "xfs", "btrfs"])
def test_a_real_disk_is_told_by_its_file_system(
    tmp_path: Path, mount: Callable[..., None], type_: str
) -> None:
    maker = shutil.which(f"mkfs.{type_}")
    if maker is None:
        pytest.skip(f"needs mkfs.{type_}")
    image, point = tmp_path / "image", tmp_path / "my models"
    image.touch()
    os.truncate(image, 400 << 20)
    subprocess.run([maker, "-q", str(image)], check=True, capture_output=True)
    point.mkdir()
    mount(point, "-o", "loop", "-t", type_, str(image))
    (point / "a").write_bytes(b"xyz")
    expected = FileSystem(type=type_, kind=Kind.LOCAL)
    assert filesystem.survey([point / "a"]).bytes_on == ((expected, 3),)
    bound = tmp_path / "bound"
    bound.mkdir()
    mount(bound, "--bind", str(point))
    (tmp_path / "link").symlink_to(bound / "a")
    assert filesystem.survey([bound / "a", tmp_path / "link"]).bytes_on == ((expected, 6),)


def test_a_real_file_system_in_user_space_is_told_by_its_name(tmp_path: Path) -> None:
    if shutil.which("bindfs") is None or not os.access("/dev/fuse", os.W_OK):
        pytest.skip("needs bindfs and /dev/fuse")
    source, point = tmp_path / "source", tmp_path / "point"
    source.mkdir()
    point.mkdir()
    (source / "a").write_bytes(b"x")
    done = subprocess.run(["bindfs", str(source), str(point)], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"may not mount here: {done.stderr.strip()}")
    try:
        (found,) = filesystem.survey([point / "a"]).filesystems
    finally:
        subprocess.run(["umount", str(point)], check=True)
    assert found.kind is Kind.NETWORK
    assert found.type.startswith("fuse")
