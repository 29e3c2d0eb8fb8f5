;; Built for an interface that comes later.
(component
  (import "dask:operator/host@0.1.7" (instance)))
