;; A component with code inside of a component.
(component
  (component $inner
    (core module $code (func (export "run")))
    (core instance $code (instantiate $code))
    (func (export "run") (canon lift (core func $code "run"))))
  (instance $handler (instantiate $inner))
  (export "dask:operator/handler@0.1.0" (instance $handler)))
