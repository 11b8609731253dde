#!/usr/bin/env bash
# The compose file, for real: up, produce, kill a node, watch the election over gRPC, consume all, down.
# Needs root. Starts a docker engine of its own unless one answers, and makes the base image locally if it is missing.
# compose.sh HIGHWATER    the binary that goes into the image, and that talks to the cluster from the host
set -euo pipefail
highwater=$(realpath "$1")
root=$(cd "$(dirname "$0")/.." && pwd)
work=$(mktemp -d)
export PATH=/usr/bin:$PATH DOCKER_BUILDKIT=1 COMPOSE_DOCKER_CLI_BUILD=1 BINARY_STAGE=prebuilt
export HIGHWATER_TAG=test COMPOSE_PROJECT_NAME=highwater-test
engine=
compose() { docker-compose -f "$root/deploy/docker-compose.yml" "$@"; }
finish() {
  status=$?
  [ $status = 0 ] || compose logs --tail 30 || true
  compose down -v --timeout 20 >/dev/null 2>&1 || true
  if [ -n "$engine" ]; then kill "$engine" 2>/dev/null || true; wait "$engine" 2>/dev/null || true; fi
  rm -rf "$work"
  exit $status
}
trap finish EXIT
until_true() { # SECONDS WHAT COMMAND…
  local deadline=$((SECONDS + $1)) what=$2; shift 2
  until "$@"; do
    [ $SECONDS -lt $deadline ] || { echo "not in time: $what" >&2; return 1; }
    sleep 0.1
  done
}

if ! docker info >/dev/null 2>&1; then
  dockerd >"$work/dockerd.log" 2>&1 &
  engine=$!
  until_true 60 "the docker engine answers" sh -c 'docker info >/dev/null 2>&1' || { tail -20 "$work/dockerd.log"; exit 1; }
fi
if ! docker image inspect debian:bookworm-slim >/dev/null 2>&1; then
  debootstrap --variant=minbase bookworm "$work/base" >"$work/debootstrap.log" 2>&1 || { tail -20 "$work/debootstrap.log"; exit 1; }
  tar -C "$work/base" -c . | docker import - debian:bookworm-slim >/dev/null
fi
mkdir -p "$root/target/release"
[ "$highwater" -ef "$root/target/release/highwater" ] || cp "$highwater" "$root/target/release/highwater"

bootstrap=localhost:19092,localhost:29092,localhost:39092
compose build --quiet
compose up -d
until_true 60 "three healthy nodes" sh -c '[ "$(docker ps --filter name=highwater-test --filter health=healthy -q | wc -l)" = 3 ]'
echo "three nodes are healthy"
test "$(docker inspect -f '{{.Config.User}}' "$(compose ps -q highwater-1)")" = highwater

"$highwater" topic create events --partitions 6 --replication-factor 3 --admin localhost:19094
seq 1 2000 | kcat -P -b $bootstrap -t events -X acks=all
timeout 60 "$highwater" cluster watch --admin localhost:29094 -o json >"$work/watch" 2>&1 &
watch=$!
victim=$(compose ps -q highwater-3)
asked=$(date +%s%3N)
docker kill "$victim" >/dev/null
killed=$(date +%s%3N)
until_true 30 "the election is seen over gRPC" grep -qi 'leader.*elected' "$work/watch"
seen=$(date +%s%3N)
kill $watch 2>/dev/null || true
elections=$(grep -ci 'leader.*elected' "$work/watch")
echo "elections seen: $elections, $((seen - killed)) ms after docker kill, which took $((killed - asked)) ms"
seq 2001 3000 | kcat -P -b localhost:19092,localhost:29092 -t events -X acks=all
docker start "$victim" >/dev/null
until_true 60 "the killed node is healthy again" sh -c '[ "$(docker ps --filter name=highwater-test --filter health=healthy -q | wc -l)" = 3 ]'
kcat -C -b $bootstrap -t events -o beginning -e -q | sort -n >"$work/consumed"
seq 1 3000 | cmp - "$work/consumed"
echo "3000 of 3000 records consumed after docker kill"
# A clean stop takes well under the grace period.
compose stop --timeout 25
test "$(docker inspect -f '{{.State.ExitCode}}' "$(compose ps -q highwater-1)")" = 0
echo "stopped cleanly"
