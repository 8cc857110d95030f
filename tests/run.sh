#!/usr/bin/env bash
# Installs what testing needs and runs every test. As root or in CI it installs without asking; else it
# prints the line and asks. On macOS there is nothing to install: Metal takes Vulkan's place.
set -euo pipefail
cd "$(dirname "$0")/.."

# Vulkan in software, so that the GPU tests run where no GPU is; the C compiler is for linking alone.
packages=(libvulkan1 mesa-vulkan-drivers)
command -v cc >/dev/null || packages+=(gcc libc6-dev)

missing=()
if [ "$(uname -s)" = Linux ] && command -v dpkg-query >/dev/null; then
    for package in "${packages[@]}"; do
        dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing+=("$package")
    done
fi
if [ ${#missing[@]} -gt 0 ]; then
    install="apt-get update && apt-get install -y --no-install-recommends ${missing[*]}"
    if [ "$(id -u)" = 0 ]; then
        echo "+ $install"
        # Ignored by Debian's front end unless set: no question may wait for an answer here.
        export DEBIAN_FRONTEND=noninteractive
        bash -c "$install"
    else
        echo "The tests need: ${missing[*]}"
        echo "    sudo sh -c '$install'"
        if [ -n "${CI:-}" ]; then
            sudo sh -c "$install"
        else
            read -r -p "Run it now? [y/N] " answer
            case "$answer" in
                y | Y | yes) sudo sh -c "$install" ;;
                *)
                    echo "Not installed; nothing was tested." >&2
                    exit 1
                    ;;
            esac
        fi
    fi
fi

if [ "$(uname -s)" = Linux ]; then
    # The software device, whatever else is there: the same one everywhere, and it must be found.
    icd=$(find /usr/share/vulkan/icd.d -name 'lvp_icd*.json' 2>/dev/null | head -n 1)
    if [ -z "$icd" ] && [ -z "${VK_DRIVER_FILES:-}" ]; then
        echo "No software Vulkan driver: expected lvp_icd*.json in /usr/share/vulkan/icd.d" >&2
        exit 1
    fi
    export VK_DRIVER_FILES="${VK_DRIVER_FILES:-$icd}"
    export VK_ICD_FILENAMES="$VK_DRIVER_FILES"
    export XDG_RUNTIME_DIR="${XDG_RUNTIME_DIR:-/tmp}"
fi
export INTERLEAF_REQUIRE_GPU=1
export CARGO_TERM_COLOR="${CARGO_TERM_COLOR:-auto}"

step() {
    echo
    echo "== $*"
    "$@"
}

step cargo fmt --all --check
# One profile for everything, so that wgpu is built once for the binary, the tests and the benches.
step cargo clippy --release --workspace --all-targets -- -D warnings
step env RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps
# Benches run once here, for the answers that they check.
step cargo test --release --workspace --all-targets
step cargo test --release --workspace --doc
