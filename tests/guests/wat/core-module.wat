;; What a compiler gives before it is turned into a component.
(module
  (func (export "handle")))
