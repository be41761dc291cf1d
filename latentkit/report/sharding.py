"""What sharding will do and has done, for people. On stderr."""

from rich.console import Console

from latentkit.exports.manifest import TarPlan
from latentkit.exports.webdataset import TarJob, TarResult
from latentkit.runtime.exit_status import DONE, INTERRUPTED, QUARANTINED
from latentkit.runtime.readable import readable_bytes, readable_count
from latentkit.runtime.terminal import first_lines, print_table


def announce(job: TarJob, plan: TarPlan, console: Console) -> None:
    """Say what will be done, before anything is written."""
    random = [name for name, contract in job.contracts.items() if not contract.pretrained]
    if random:
        console.print(f"RANDOM WEIGHTS in {', '.join(random)}: the shapes are real, the numbers mean nothing")
    unrecorded = [name for name, contract in job.contracts.items() if not contract.recorded]
    if unrecorded:
        console.print(f"nobody recorded what made {', '.join(unrecorded)}; the manifest says so too")
    whole = readable_count(len(plan.samples.complete), "complete picture")
    console.print(f"{whole} in {job.store.root}, to {job.shards_dir}")
    pictures = sum(len(tar.samples) for tar in plan.todo)
    todo, size = readable_count(len(plan.todo), "tar"), readable_bytes(sum(tar.bytes for tar in plan.todo))
    words = [f"{todo} to write ({pictures:,} pictures, at most {size})"] * bool(plan.todo)
    words += [f"{readable_count(len(plan.manifest.shards), 'tar')} done"] * bool(plan.manifest.shards)
    words += [f"{len(plan.stale):,} to remove"] * bool(plan.stale)
    console.print(f"  {', '.join(words)}")
    if not plan.todo and not plan.stale:
        console.print("nothing to do")


def summarise(job: TarJob, plan: TarPlan, result: TarResult, console: Console) -> int:
    """Print the table and what a user should know; the exit status."""
    manifest = plan.manifest
    rows = []
    for bucket in sorted(manifest.buckets):
        tars = [tar for tar in manifest.shards.values() if tar.bucket == bucket]
        pictures, size = sum(tar.count for tar in tars), sum(tar.bytes for tar in tars)
        rows.append((bucket, f"{len(tars):,}", f"{pictures:,}", readable_bytes(size)))
    state = "interrupted" if result.left else "done"
    print_table(console, f"shard: {state}", ["bucket", "tars", "pictures", "size"], rows)
    if result.tars:
        rate = result.bytes / result.seconds / 2**20
        wrote = f"{readable_count(result.tars, 'tar')}, {readable_bytes(result.bytes)}"
        console.print(f"wrote {wrote} in {result.seconds:,.1f} s, {rate:,.0f} MiB/s")
    console.print(f"in {job.shards_dir}")
    if manifest.incomplete:
        lacking = ", ".join(f"{name} {count:,}" for name, count in manifest.lacking.items())
        console.print(f"incomplete, not in the tars: {manifest.incomplete:,} (lacking: {lacking})")
    left_out = {key: why for tar in manifest.shards.values() for key, why in tar.left_out.items()}
    if left_out:
        console.print(f"damaged, left out: {len(left_out):,} (verify fix=true, then encode and shard again)")
        for line in first_lines([f"{key}: {why}" for key, why in sorted(left_out.items())]):
            console.print(line)
    if result.left:
        console.print(
            f"interrupted with {readable_count(result.left, 'tar')} left; the same command goes on from here"
        )
        return INTERRUPTED
    return QUARANTINED if left_out else DONE
