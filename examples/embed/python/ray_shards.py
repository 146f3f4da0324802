"""An evaluation spread over a Ray cluster: `python ray_shards.py PACKAGE DATA SHARDS`. A part that is lost is computed anew by Ray; the report is
that of one process, to the bit."""

import json
import sys

import mxc
import ray

package, data, shards = sys.argv[1], sys.argv[2], int(sys.argv[3])
content = mxc.Package.open(package).to_bytes()


@ray.remote(num_cpus=1, max_retries=3)
def part(content: bytes, shard: int) -> str:
    return mxc.Package.from_bytes(content).evaluate_shard(data, shard, shards, threads=1)


ray.init()
stored = ray.put(content)
report = mxc.merge(ray.get([part.remote(stored, shard) for shard in range(1, shards + 1)]))
print(json.dumps(report.json))
