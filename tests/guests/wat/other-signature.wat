;; Knows a function of WASI by another type.
(component
  (import "wasi:random/random@0.2.6" (instance (export "get-random-u64" (func (param "seed" string) (result string)))))
  (instance $handler)
  (export "dask:operator/handler@0.1.0" (instance $handler)))
