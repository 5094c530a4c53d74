"""Internal: `al.capture`, its compiled form, and what captures cost.

capturing         `capture` and `Capture`
compiled_capture  the recorder that works inside a compiled model
resolve           the arguments of `capture`, checked, as one request
memory            `plan`: bytes that a capture or a dump would take
"""
