#!/usr/bin/env bash
# Build the Dockerfile without an engine and without a registry: buildah on a base image made here.
#
#   tests/container/run.sh [--base-tar FILE] [--cache DIR] [BUILD-ARG ...]
#
# Takes ten minutes and 6 GB, so CI doesn't run it. Needs buildah and mmdebstrap (Debian: apt-get install
# buildah crun mmdebstrap). By default it makes the wheel of the newest release with upstream's
# binaries, untested (NATIVE=none, target untested): what is tried here is the image, not a compile.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

base_tar='' cache=''
while (($#)); do
  case $1 in
    --base-tar) base_tar=$2; shift 2 ;;
    --cache) cache=$2; shift 2 ;;
    *) break ;;
  esac
done
for tool in buildah mmdebstrap; do
  if ! command -v "$tool" >/dev/null; then
    echo "$tool is not on the PATH: apt-get install buildah crun mmdebstrap" >&2
    exit 8
  fi
done

work=$(mktemp -d)
# vfs and chroot need neither overlayfs nor namespaces.
export BUILDAH_ISOLATION=chroot
storage=(--storage-driver vfs --root "$work/storage" --runroot "$work/run")
clean() {
  buildah "${storage[@]}" umount --all >/dev/null 2>&1 || true
  # Without root the files belong to users that only a namespace of ours knows.
  rm -rf "$work" 2>/dev/null || buildah unshare rm -rf "$work"
}
trap clean EXIT

if [[ -z $base_tar ]]; then
  base_tar=$work/base.tar
  mmdebstrap --quiet --variant=minbase --include=ca-certificates,python3 bookworm "$base_tar"
fi
container=$(buildah "${storage[@]}" from scratch)
buildah "${storage[@]}" add -q "$container" "$base_tar" /
# The machine's certificates, for a package index behind a proxy of its own.
if [[ -n ${SSL_CERT_FILE:-} ]]; then
  buildah "${storage[@]}" copy -q "$container" "$SSL_CERT_FILE" /etc/ssl/certs/ca-certificates.crt
  buildah "${storage[@]}" config --env PIP_CERT=/etc/ssl/certs/ca-certificates.crt \
    --env SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt "$container"
fi
buildah "${storage[@]}" commit -q --rm "$container" sm12x-base

# Debian 12 has no rustup, which upstream's binaries don't need either.
options=(--build-arg RUST=)
# Archives that are there already, so that a rehearsal fetches nothing large.
[[ -z $cache ]] || options+=(--volume "$cache/downloads:/home/builder/.cache/vllm-sm12x/downloads:ro")
mkdir -p dist
buildah "${storage[@]}" bud --layers=false --target untested --tag sm12x-wheel \
  --build-arg BASE_IMAGE=localhost/sm12x-base --build-arg NATIVE=none \
  "${options[@]}" "$@" .
mounted=$(buildah "${storage[@]}" from sm12x-wheel)
cp "$(buildah "${storage[@]}" mount "$mounted")"/*.whl* dist/
ls -l dist
