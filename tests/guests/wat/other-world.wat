;; A component for something else.
(component
  (core module $code (func (export "run")))
  (core instance $code (instantiate $code))
  (func (export "run") (canon lift (core func $code "run"))))
