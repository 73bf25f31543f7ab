#!/bin/sh
# Runs warp (https://github.com/minio/warp) against a Lobos of its own: every mode, small and large
# objects, payloads signed as warp does by default. Fails at the first run that ends with an error.
#
#   bench/warp.sh WARP                    WARP: path of the warp program
#
# DURATION (10s), CONCURRENT (32), SIZES ("4KiB 1MiB 10MiB"), MODES, LOBOS_BINARY (the release
# build) and DIR (a scratch directory below it, by default in $TMPDIR) can be set around it.
set -eu

[ $# -eq 1 ] || { sed -n '2,8s/^# \{0,1\}//p' "$0" >&2; exit 2; }
warp=$1
lobos=${LOBOS_BINARY:-$(dirname "$0")/../target/release/lobos}
duration=${DURATION:-10s}
concurrent=${CONCURRENT:-32}
sizes=${SIZES:-4KiB 1MiB 10MiB}
modes=${MODES:-put get stat list delete mixed}
[ -x "$lobos" ] || { echo "$lobos is missing: cargo build --release" >&2; exit 2; }

home=$(mktemp -d "${DIR:-${TMPDIR:-/tmp}}/lobos-warp.XXXXXX")
server=
finish() {
    [ -z "$server" ] || kill "$server" 2>/dev/null || true
    [ -z "$server" ] || wait "$server" 2>/dev/null || true
    rm -rf "$home"
}
trap finish EXIT
trap 'exit 130' INT TERM

export LOBOS_ROOT_USER=warp LOBOS_ROOT_PASSWORD=warp-secret
"$lobos" serve --root "$home/root" --state-dir "$home/state" --listen 127.0.0.1:0 \
    >"$home/printed" 2>"$home/log" &
server=$!
tries=0
until address=$(grep -o '127\.0\.0\.1:[1-9][0-9]*' "$home/printed"); do
    tries=$((tries + 1))
    [ $tries -lt 100 ] || { cat "$home/log" >&2; exit 1; }
    sleep 0.1
done
address=$(echo "$address" | head -n 1)

# Objects that are there before get, stat, list, delete and mixed begin: at most 1 GiB of them.
objects() {
    case $1 in
        *KiB) echo 2000 ;;
        1MiB) echo 500 ;;
        *) echo 100 ;;
    esac
}

run() {
    mode=$1 size=$2
    # Every request is kept: the sums that warp makes otherwise tell nothing of a short run.
    set -- "$mode" --full --host "$address" --access-key warp --secret-key warp-secret --no-color \
        --bucket "warp-$mode" --concurrent "$concurrent" --obj.size "$size" \
        --benchdata "$home/data" --duration "$duration"
    case $mode in
        put) ;;
        # Enough keys for every client to delete some.
        delete) set -- "$@" --objects 6400 --batch 20 ;;
        *) set -- "$@" --objects "$(objects "$size")" ;;
    esac
    echo "== $mode, $size, $concurrent connections"
    if ! "$warp" "$@" >"$home/output" 2>&1 || grep -qiE 'error|panic|failed' "$home/output"; then
        cat "$home/output" >&2
        echo "warp $mode with $size ended with an error; the server's log:" >&2
        tail -n 20 "$home/log" >&2
        exit 1
    fi
    # The objects that a mode begins with are made by a PUT without clients of its own.
    grep -E '^(Operation|\* Average| \* Throughput|Cluster Total)' "$home/output" |
        grep -v 'Concurrency: 0' | awk '!seen[$0]++' || true
    grep -qE '^(\* Average|Cluster Total: [0-9])' "$home/output" || {
        cat "$home/output"
        echo "Too short for a figure: raise DURATION."
    }
}

for mode in $modes; do
    for size in $sizes; do
        # Neither names nor deletes move an object's bytes.
        case $mode in stat | list | delete) [ "$size" = "${sizes%% *}" ] || continue ;; esac
        run "$mode" "$size"
    done
done
if grep -qi panic "$home/log"; then
    cat "$home/log" >&2
    exit 1
fi
echo "No run ended with an error."
