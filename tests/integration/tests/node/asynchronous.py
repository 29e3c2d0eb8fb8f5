"""What people do with KubeCluster where they wait for nobody. Arguments: namespace, image."""

import asyncio
import sys

from dask.distributed import Client
from dask_kubernetes.operator import KubeCluster

namespace, image = sys.argv[1:]


async def main():
    options = {"namespace": namespace, "image": image, "n_workers": 1, "quiet": True}
    async with KubeCluster(name="demo", asynchronous=True, **options) as cluster:
        async with Client(cluster, asynchronous=True) as client:
            await client.wait_for_workers(1, timeout=120)
            assert await client.submit(sum, range(10)) == 45
            await cluster.scale(2)
            await client.wait_for_workers(2, timeout=120)
            assert await client.gather(client.map(abs, range(-5, 5))) == [5, 4, 3, 2, 1, 0, 1, 2, 3, 4]


asyncio.run(main())
