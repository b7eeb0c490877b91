"""What Triton asks of a backend's compiler."""

from triton.backends.compiler import BaseBackend


class InterpretedBackend(BaseBackend):
    @staticmethod
    def supports_target(target):
        return target.backend == "cpu"

    def hash(self):
        return "interpreted"

    def parse_options(self, options):
        return options

    def add_stages(self, stages, options, language=None):
        raise NotImplementedError("set TRITON_INTERPRET=1: this backend compiles nothing")

    def load_dialects(self, context):
        pass

    def get_module_map(self):
        return {}

    def pack_metadata(self, metadata):
        return metadata

    def get_codegen_implementation(self, options=None):
        return {}


InterpretedBackend.__abstractmethods__ = frozenset()  # whatever else a version of Triton asks for is never called
