# shellcheck shell=bash
# Sourced by the other scripts: the compiler and the folders that a build here uses.
#
# The bootstrap decides on the compiler. In CI the checkout is new every time, so what was compiled
# before is kept outside of it. A value that you set yourself wins over both.

abide_root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
abide_cache=/var/cache/abide

if [[ -f $abide_root/.bootstrap/env ]]; then
    # shellcheck source=/dev/null
    source "$abide_root/.bootstrap/env"
fi

if [[ -n "${CI:-}" ]] && mkdir -p "$abide_cache" 2>/dev/null && [[ -w $abide_cache ]]; then
    export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-$abide_cache/target}"
    export CCACHE_DIR="${CCACHE_DIR:-$abide_cache/ccache}"
    # Nothing is built twice there.
    export CARGO_INCREMENTAL=0
fi

# Where cargo puts what it builds, for scripts that run it.
# shellcheck disable=SC2034
abide_target=${CARGO_TARGET_DIR:-$abide_root/target}
