;; Uses instructions that plugins don't get.
(component
  (core module $code
    (func (export "run") (result v128) (v128.const i64x2 0 0)))
  (instance $handler)
  (export "dask:operator/handler@0.1.0" (instance $handler)))
