"""Bugs planted in CUDA kernels (kernels/planted.cu). Each must be found by a certain tool: the
schedules, the NaN in fresh shared memory, the reports, AddressSanitizer, ThreadSanitizer. Without
its bug every kernel passes all of them.
"""

from __future__ import annotations

import os
import re
import subprocess

import pytest

from tests.cuda import compile
from tests.cuda.schedules import SCHEDULES

pytestmark = pytest.mark.deep

# Bug -> a word that all schedules contain under which its numbers are wrong. Under other schedules
# they are right, under random ones either.
NUMBERS = {
    "no_barrier": "",
    "no_warp_barrier": "",
    "reads_unwritten_memory": "",
    "no_barrier_at_the_end_of_the_loop": "greedy",
    "write_after_read": "greedy",
    "waits_one_group_short": "late",
    "copies_too_early": "early",
    "does_not_wait_for_a_box": "late",
    "wrong_stride_of_a_factor": "",
    "reads_sums_too_early": "early",
    "releases_a_box_too_early": "early",
}

# Bug -> the error message, under every schedule.
REPORTS = {
    "early_return": r"block \(0, 0, 0\) cannot go on: threads 0-99 wait in sync_block at "
    r"planted\.cu:\d+, threads 100-127 have ended",
    "two_barriers": r"sync_block at planted\.cu:\d+: other threads of the block are at sync_block "
    r"at planted\.cu:\d+; block \(0, 0, 0\), thread \(\d+, 0, 0\)",
    "half_a_warp_shuffles": r"threads 0-15, 32-47, 64-79, 96-111 wait in shuffle_xor at "
    r"planted\.cu:\d+, threads 16-31, 48-63, 80-95, 112-127 wait in sync_block at",
    "half_a_warp_votes": r"(shuffle_xor|lanes_where) at planted\.cu:\d+: other lanes of the warp "
    r"are at (shuffle_xor|lanes_where) at planted\.cu:\d+",
    "lane_outside_the_mask": r"shuffle_xor at planted\.cu:\d+: reads lane \d+, which is not in the",
    "not_in_its_own_mask": r"sync_warp at planted\.cu:\d+: the calling lane is not in its own mask",
    "barriers_of_different_size": r"expects \d+ threads, the ones that came before expect \d+",
    "ends_with_open_copies": r"the end of the kernel: copy_async16 was not waited for",
    "misaligned_load": r"load16 at planted\.cu:\d+: the address is not aligned to 16",
    "misaligned_shared_store": r"store16 at planted\.cu:\d+: the address is not aligned to 16",
    "misaligned_copy": r"copy_async16 at planted\.cu:\d+: the address in global memory is not al",
    "copies_to_global_memory": r"copy_async16 at planted\.cu:\d+: .* not in one shared variable",
    "misaligned_ldmatrix": r"ldmatrix_x2 at planted\.cu:\d+: the address in shared memory is not",
    "too_much_static_memory": r"v at planted\.cu:\d+: its 49156 bytes do not fit",
    "no_dynamic_memory": r"BYHAND_DYNAMIC_SHARED at planted\.cu:\d+: the kernel was launched witho",
    "too_much_dynamic_memory": r"at most 227 KB of shared memory, got 232449 bytes",
    "too_many_threads": r"a block has 1 to 1024 threads .* got \(128, 9, 1\)",
    "too_many_blocks": r"1 to 65535 in y and z, got \(1, 65536, 1\)",
    "no_blocks": r"a grid has 1 to \d+ blocks in x .* got \(0, 1, 1\)",
    "ends_with_open_products": r"the end of the kernel: product_async was not waited for",
    "ends_with_an_open_box": r"the end of the kernel: copy_box_async was not waited for; block",
    "touches_sums_between_products": r"product_async at planted\.cu:\d+: no open_products since",
    "waits_for_the_wrong_parity": r"cannot go on: threads .* wait in wait_phase at planted\.cu:\d+",
    "expects_too_many_bytes": r"cannot go on: threads 0-127 wait in wait_phase at planted\.cu:\d+",
    "arrives_too_often": r"arrive at planted\.cu:\d+: more arrivals than the barrier was op",
    "barrier_that_was_not_opened": r"at planted\.cu:\d+: the barrier was not opened",
    "misaligned_box": r"copy_box_async at planted\.cu:\d+: the address in .* not aligned to 1024",
    "writes_beyond_shared": r"something was written beyond the ends of v at planted\.cu:\d+",
}

# Bug -> the report of AddressSanitizer or UndefinedBehaviorSanitizer.
ADDRESS = {
    "reads_beyond_global": r"heap-buffer-overflow.*READ of size 4",
    "writes_beyond_global": r"heap-buffer-overflow.*WRITE of size 4",
    "reads_beyond_shared": r"index 128 out of bounds",
    "reads_far_beyond_shared": r"use-after-poison.*READ of size 4",
    "writes_beyond_shared": r"index 128 out of bounds",
    "shifts_too_far": r"shift exponent 32 is too large",
}

# Race -> the schedule under which ThreadSanitizer runs. Any order finds it, but early and late
# copies give different races.
RACES = {
    "no_barrier": "forward late",
    "no_warp_barrier": "forward late",
    "no_barrier_at_the_end_of_the_loop": "forward late",
    "write_after_read": "forward late",
    "copies_too_early": "forward early",
    "does_not_wait_for_a_box": "forward late",
    "waits_for_the_wrong_parity": "forward late",
    "blocks_write_the_same_place": "forward late",
    "counts_without_atomics": "forward late",
}


class Program:
    def __init__(self, path):
        self.path = path

    def __call__(self, *names, schedule="forward late", threads=1):
        environment = {
            **os.environ,
            "BYHAND_SCHEDULE": schedule,
            "OMP_NUM_THREADS": str(threads),
            "ASAN_OPTIONS": "detect_leaks=0",
            "UBSAN_OPTIONS": "print_stacktrace=1",
        }
        return subprocess.run(
            [self.path, *names], env=environment, capture_output=True, text=True, timeout=300
        )

    def names(self):
        return self().stdout.split()

    def outcomes(self, names, **options):
        """{name: "right", "wrong: ..." or an error}; the output must consist of these."""
        done = self(*names, **options)
        assert (done.stderr, done.returncode) == ("", 0)
        return dict(zip(names, done.stdout.splitlines(), strict=True))


@pytest.fixture(scope="module")
def plain(cache_dir):
    return Program(compile.on_host("planted", cache_dir, program=True))


@pytest.fixture(scope="module")
def address(cache_dir):
    return Program(compile.on_host("planted", cache_dir, "address,undefined", program=True))


@pytest.fixture(scope="module")
def thread(cache_dir):
    program = Program(compile.on_host("planted", cache_dir, "thread", program=True))
    if "unexpected memory mapping" in (why := program("no_barrier").stderr):
        pytest.skip(why.strip())  # the system randomises addresses more than the sanitizer supports
    return program


def test_every_bug_is_meant_for_a_tool(plain):
    assert set(plain.names()) == {*NUMBERS, *REPORTS, *ADDRESS, *RACES}


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("threads", [1, 2])
def test_without_bugs_all_is_right(plain, schedule, threads):
    outcomes = plain.outcomes(plain.names(), schedule=schedule, threads=threads)
    assert set(outcomes.values()) == {"right"}


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_wrong_numbers(plain, schedule):
    outcomes = plain.outcomes([f"-{name}" for name in NUMBERS], schedule=schedule)
    wrong = {name[1:] for name, outcome in outcomes.items() if outcome.startswith("wrong: ")}
    certain = {name for name, where in NUMBERS.items() if where in schedule}
    if "random" in schedule:
        assert {name for name in certain if not NUMBERS[name]} <= wrong
    else:
        assert wrong == certain


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("threads", [1, 2])
def test_reports(plain, schedule, threads):
    """One after another in one process: an error must not affect the next kernel."""
    names = [name for bug in REPORTS for name in (f"-{bug}", bug)]
    outcomes = plain.outcomes(names, schedule=schedule, threads=threads)
    for bug, pattern in REPORTS.items():
        assert re.fullmatch(rf"{bug}: .*{pattern}.*", outcomes[f"-{bug}"]), outcomes[f"-{bug}"]
        assert outcomes[bug] == "right"


@pytest.mark.parametrize("schedule", ["forward late", "warp-greedy early"])
def test_address_sanitizer_says_nothing_about_what_is_right(address, schedule):
    outcomes = address.outcomes([*address.names(), *(f"-{r}" for r in REPORTS if r not in ADDRESS)],
                                schedule=schedule)  # fmt: skip
    assert {outcomes[name] for name in address.names()} == {"right"}


@pytest.mark.parametrize("bug", ADDRESS)
def test_address_sanitizer_finds(address, bug):
    done = address(f"-{bug}")
    assert done.returncode != 0
    pattern = rf"{ADDRESS[bug]}.*#0 \S+ in {bug}<true> \S+planted\.cu:\d+"
    assert re.search(pattern, done.stderr, re.S), done.stderr


@pytest.mark.parametrize("schedule", ["forward late", "reverse early", "warp-greedy late"])
def test_thread_sanitizer_says_nothing_about_what_is_right(thread, schedule):
    names = [*thread.names(), *(f"-{r}" for r in REPORTS.keys() - ADDRESS.keys() - RACES.keys())]
    outcomes = thread.outcomes(names, schedule=schedule)
    assert {outcomes[name] for name in thread.names()} == {"right"}


@pytest.mark.parametrize("bug", RACES)
def test_thread_sanitizer_finds(thread, bug):
    done = thread(f"-{bug}", schedule=RACES[bug])
    assert done.returncode != 0
    assert re.search(rf"data race.*{bug}<true> \S+planted\.cu:\d+", done.stderr, re.S), done.stderr
