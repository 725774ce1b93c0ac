#!/bin/sh
# What the Dockerfile runs to make a wheel: build.py with the image's arguments. "$@" goes to it, too.
set -eu

# Where the shared compiler cache is and what opens it: lines of NAME=value, as sccache reads them.
# A secret's file is in no layer. Values are taken as they stand: a shell would read $, & and ; in
# a password.
secret=${SCCACHE_SECRET:-/run/secrets/sccache}
if [ -f "$secret" ]; then
  number=0
  while IFS= read -r line || [ -n "$line" ]; do
    number=$((number + 1))
    case $line in '' | '#'*) continue ;; esac
    name=${line%%=*}
    case $name in
      "$line" | '' | [0-9]* | *[!A-Za-z0-9_]*)
        echo "error: line $number of the secret sccache isn't NAME=value" >&2
        echo "  next: write plain lines without export or blanks around =" >&2
        exit 2
        ;;
    esac
    export "$name=${line#*=}"
  done <"$secret"
fi

set -- "$@" --base "$BASE" --arch "$ARCH" --native "$NATIVE" --platform "$PLATFORM"
[ -z "$JOBS" ] || set -- "$@" --jobs "$JOBS"
[ -z "$COMPILER_CACHE" ] || set -- "$@" --compiler-cache "$COMPILER_CACHE"
[ -z "$TEST_TORCH" ] || set -- "$@" --test-torch "$TEST_TORCH"
# Folders and archives of inner sources by their names; an empty context is none.
[ -z "$(ls -A /sources 2>/dev/null)" ] || set -- "$@" --sources /sources

exec python3 build.py build --out "$HOME/dist" "$@"
