#!/bin/sh
# What the Dockerfile runs to make a wheel: build.py with the image's arguments. "$@" goes to it, too.
set -eu

# Where the shared compiler cache is and what opens it: lines of NAME=value, as sccache reads them.
# A secret's file is in no layer.
if [ -f /run/secrets/sccache ]; then
  set -a
  . /run/secrets/sccache
  set +a
fi

set -- "$@" --base "$BASE" --arch "$ARCH" --native "$NATIVE" --platform "$PLATFORM"
[ -z "$JOBS" ] || set -- "$@" --jobs "$JOBS"
[ -z "$COMPILER_CACHE" ] || set -- "$@" --compiler-cache "$COMPILER_CACHE"
[ -z "$TEST_TORCH" ] || set -- "$@" --test-torch "$TEST_TORCH"
# Folders and archives of inner sources by their names; an empty context is none.
[ -z "$(ls -A /sources 2>/dev/null)" ] || set -- "$@" --sources /sources

exec python3 build.py build --out "$HOME/dist" "$@"
