"""Clusters, one after the other; says how many could be used. Arguments: namespace, image, how many."""

import sys
import traceback

from dask.distributed import Client
from dask_kubernetes.operator import KubeCluster

namespace, image, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
good = 0
for number in range(count):
    try:
        options = {"namespace": namespace, "image": image, "n_workers": 1, "resource_timeout": 60, "quiet": True}
        with KubeCluster(name=f"demo-{number}", **options) as cluster, Client(cluster) as client:
            assert client.submit(sum, range(10)).result(120) == 45
        good += 1
    except Exception:
        traceback.print_exc(file=sys.stdout)
print(f"{good} of {count}")
