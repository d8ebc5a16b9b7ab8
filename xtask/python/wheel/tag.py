"""The wheel's tag: every Python since 3.11, for the native half, and systems whose glibc is no older than this one's."""

from hatchling.builders.hooks.plugin.interface import BuildHookInterface
from packaging.tags import platform_tags


class Tag(BuildHookInterface):
    def initialize(self, version, build_data):
        build_data["pure_python"] = False
        platform = next(tag for tag in platform_tags() if tag.startswith("manylinux"))
        build_data["tag"] = f"cp311-abi3-{platform}"
