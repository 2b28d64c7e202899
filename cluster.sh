#!/usr/bin/env bash
# Runs an Abide cluster on this machine, from any directory.
set -euo pipefail

usage() {
    cat <<'USAGE'
usage: cluster.sh COMMAND

  start [nodes=3] [ingress base port=8080] [node base port=9090]
                  start the nodes that are not running, on the data they have
  stop [node]     stop them politely, or one of them (2 or node2)
  restart [node]  stop, then start as before
  kill node       kill one without warning, as a crash does
  pause node      stop one in its tracks, as a stall does; `resume node` lets it go on
  wipe node       kill one and remove its data, as a lost disk does
  status          show the nodes
  services        start the sample services of examples/rust, at port 9080
  logs [node]     follow the logs of all nodes, or of one (1 or node1)
  clean           stop, and remove .cluster with all data
  demo            see a handler outlive the node that leads it
  help            show this

Configuration, logs, pids and data are kept in .cluster beside this script.
Environment: ABIDE_PROFILE=dev runs debug builds; ABIDE_BINARIES=DIRECTORY runs what is there and builds nothing;
ABIDE_INGRESS_BASE_PORT=8080, ABIDE_ADMIN_BASE_PORT=9070, ABIDE_NODE_BASE_PORT=9090 and ABIDE_SERVICES_PORT=9080
are the ports of a cluster that is new; ABIDE_START_SECONDS=60 is how long start waits.
USAGE
}

root=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
state=$root/.cluster
start_seconds_max=${ABIDE_START_SECONDS:-60}
stop_seconds_max=20
admin_base_port=${ABIDE_ADMIN_BASE_PORT:-9070}

# Set by `load_shape`: what `start` was last asked for.
nodes=3
ingress_base_port=${ABIDE_INGRESS_BASE_PORT:-8080}
node_base_port=${ABIDE_NODE_BASE_PORT:-9090}

if [[ -t 1 && -z ${NO_COLOR:-} ]]; then
    bold=$'\e[1m' green=$'\e[32m' red=$'\e[31m' plain=$'\e[0m'
else
    bold='' green='' red='' plain=''
fi

say() { printf '%s\n' "$*" >&2; }

die() {
    say "${red}error:${plain} $*"
    exit 1
}

misused() {
    say "${red}error:${plain} $*"
    usage >&2
    exit 2
}

# --- what there is to run ------------------------------------------------------------------------

profile=${ABIDE_PROFILE:-release}
case $profile in
    release) profile_folder=release ;;
    dev | debug) profile=dev profile_folder=debug ;;
    *) misused "ABIDE_PROFILE is '$profile'; it may be release or dev" ;;
esac

build() {
    if [[ -n ${ABIDE_BINARIES:-} ]]; then
        binaries=$ABIDE_BINARIES
        return
    fi
    "$root/scripts/bootstrap"
    # shellcheck source=scripts/env.sh
    source "$root/scripts/env.sh"
    # Cargo sees to it that nothing is built twice, and that nothing old is run.
    say "building abide-server, abidectl and the sample services ($profile; the first build takes a while)"
    cargo build --manifest-path "$root/Cargo.toml" --locked --profile "$profile" \
        --bin abide-server --bin abidectl --bin abide-example >&2
    binaries=$abide_target/$profile_folder
}

# --- shape: nodes and ports ----------------------------------------------------------------------

ingress_port() { echo $((ingress_base_port + $1 - 1)); }
admin_port() { echo $((admin_base_port + $1 - 1)); }
node_port() { echo $((node_base_port + $1 - 1)); }

is_started_once() { [[ -f $state/shape ]]; }

save_shape() { printf '%s %s %s\n' "$nodes" "$ingress_base_port" "$node_base_port" >"$state/shape"; }

load_shape() {
    is_started_once || return 0
    read -r nodes ingress_base_port node_base_port <"$state/shape"
}

# Sets the shape from the arguments of `start`, those left out as they were the last time.
set_shape() {
    local was_nodes was_ingress was_node
    load_shape
    was_nodes=$nodes was_ingress=$ingress_base_port was_node=$node_base_port
    nodes=$(number "nodes" "${1:-$nodes}" 1 99)
    ingress_base_port=$(number "ingress base port" "${2:-$ingress_base_port}" 1024 65000)
    node_base_port=$(number "node base port" "${3:-$node_base_port}" 1024 65000)
    if is_started_once && [[ -n $(running_nodes "$was_nodes") ]] &&
        [[ "$ingress_base_port $node_base_port" != "$was_ingress $was_node" || $nodes -lt $was_nodes ]]; then
        die "a cluster of $was_nodes nodes with ingress from $was_ingress and node ports from $was_node is running; stop it first"
    fi
}

number() {
    if ! [[ $2 =~ ^[1-9][0-9]{0,4}$ ]] || (($2 < $3 || $2 > $4)); then
        misused "$1 is '$2'; it may be $3 to $4"
    fi
    echo "$2"
}

# --- processes -----------------------------------------------------------------------------------

# When a process started, in the kernel's ticks: with its id, that tells it from any later process
# that was given the same id.
birth_of() {
    local stat fields
    stat=$(cat "/proc/$1/stat" 2>/dev/null) || return 1
    # The second field is the command's name, which may hold blanks.
    read -ra fields <<<"${stat##*) }"
    [[ ${fields[0]} != Z ]] || return 1
    echo "${fields[19]}"
}

pid_file() { echo "$state/pids/$1.pid"; }

# Prints the id of a process that this script started under that name and that still runs.
pid_of() {
    local file pid birth
    file=$(pid_file "$1")
    [[ -f $file ]] || return 1
    read -r pid birth <"$file" || return 1
    [[ $(birth_of "$pid") == "$birth" ]] || return 1
    echo "$pid"
}

running_nodes() {
    local i
    for ((i = 1; i <= $1; i++)); do
        if pid_of "node$i" >/dev/null; then echo "node$i"; fi
    done
}

# Starts a command under a name, away from this terminal, with its output in the log.
launch() {
    local name=$1 pid
    shift
    (
        cd "$state"
        # The settings of this script are none of the server's.
        unset ABIDE_PROFILE ABIDE_BINARIES ABIDE_START_SECONDS
        unset ABIDE_INGRESS_BASE_PORT ABIDE_ADMIN_BASE_PORT ABIDE_NODE_BASE_PORT ABIDE_SERVICES_PORT
        exec setsid "$@" >>"$state/logs/$name.log" 2>&1 </dev/null
    ) &
    pid=$!
    disown "$pid"
    echo "$pid $(birth_of "$pid" || echo gone)" >"$(pid_file "$name")"
}

signal_process() {
    local pid
    pid=$(pid_of "$2") || return 1
    kill "-$1" "$pid" 2>/dev/null
}

# Asks politely, waits, then insists.
stop_process() {
    local name=$1 deadline=$((SECONDS + stop_seconds_max))
    signal_process TERM "$name" || return 0
    while pid_of "$name" >/dev/null; do
        if ((SECONDS >= deadline)); then
            say "$name did not stop within $stop_seconds_max s; killing it"
            signal_process KILL "$name" || true
            break
        fi
        sleep 0.05
    done
    rm -f "$(pid_file "$name")"
}

# --- starting ------------------------------------------------------------------------------------

port_is_taken() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

refuse_taken_ports() {
    local i=$1
    local kind port
    for kind in ingress admin node; do
        port=$("${kind}_port" "$i")
        if port_is_taken "$port"; then
            die "port $port, which is to be node$i's $kind port, is taken by another program"
        fi
    done
}

write_config() {
    local i=$1 j addresses="" replication=1
    for ((j = 1; j <= nodes; j++)); do
        addresses+="${addresses:+, }\"http://127.0.0.1:$(node_port "$j")\""
    done
    ((nodes < 3)) || replication=2
    cat >"$state/config/node$i.toml" <<CONFIG
# Written by cluster.sh at every start.
node-name = "node$i"
cluster-name = "local"
# Relative to .cluster, where the nodes are started.
base-dir = "data"

# Exactly one node of a cluster may form it; the others join.
auto-provision = $( ((i == 1)) && echo true || echo false)
default-replication = $replication

bind-ip = "127.0.0.1"
bind-port = $(node_port "$i")
advertised-address = "http://127.0.0.1:$(node_port "$i")"

[ingress]
bind-ip = "127.0.0.1"
bind-port = $(ingress_port "$i")
advertised-address = "http://127.0.0.1:$(ingress_port "$i")"

[admin]
bind-ip = "127.0.0.1"
bind-port = $(admin_port "$i")
advertised-address = "http://127.0.0.1:$(admin_port "$i")"

[metadata-client]
addresses = [$addresses]
CONFIG
}

start_nodes() {
    local i name
    local missing=()
    for ((i = 1; i <= nodes; i++)); do
        if pid_of "node$i" >/dev/null; then
            say "node$i is running"
        else
            refuse_taken_ports "$i"
            missing+=("$i")
        fi
    done
    mkdir -p "$state"/{config,logs,pids,data}
    save_shape
    for i in "${missing[@]}"; do
        name=node$i
        write_config "$i"
        launch "$name" "$binaries/abide-server" --config-file "$state/config/$name.toml"
    done
    ((${#missing[@]} == 0)) || wait_until_serving
}

is_serving() { curl --silent --fail --max-time 2 --output /dev/null "http://127.0.0.1:$(ingress_port "$1")/restate/health"; }

wait_until_serving() {
    local i deadline=$((SECONDS + start_seconds_max))
    for ((i = 1; i <= nodes; i++)); do
        until is_serving "$i"; do
            if ! pid_of "node$i" >/dev/null; then
                tail -n 20 "$state/logs/node$i.log" >&2
                die "node$i ended; its log is $state/logs/node$i.log"
            fi
            ((SECONDS < deadline)) || die "node$i does not serve after $start_seconds_max s; its log is $state/logs/node$i.log"
            sleep 0.05
        done
    done
}

start() {
    (($# <= 3)) || misused "start takes at most three arguments"
    set_shape "$@"
    build
    start_nodes
    status
}

# --- the other commands --------------------------------------------------------------------------

stop() {
    if (($# > 0)); then
        local name
        name=$(node_named "$1")
        stop_process "$name"
        return
    fi
    load_shape
    local i pids=()
    # All at once: a node that stops hands its leaderships to those that stay, and none has to stay.
    for ((i = 1; i <= nodes; i++)); do
        stop_process "node$i" &
        pids+=($!)
    done
    stop_process services &
    pids+=($!)
    wait "${pids[@]}"
    say "stopped"
}

restart() {
    stop "$@"
    start
}

# Crashes and stalls, to see what the others make of it.
kill_node() {
    local name
    name=$(node_named "${1:-}")
    signal_process KILL "$name" || die "$name is not running"
    while pid_of "$name" >/dev/null; do sleep 0.02; done
    say "killed $name"
}

pause_node() {
    local name
    name=$(node_named "${1:-}")
    signal_process STOP "$name" || die "$name is not running"
    say "paused $name"
}

resume_node() {
    local name
    name=$(node_named "${1:-}")
    signal_process CONT "$name" || die "$name is not running"
    say "resumed $name"
}

wipe_node() {
    local name
    name=$(node_named "${1:-}")
    ! pid_of "$name" >/dev/null || kill_node "$name"
    rm -rf "${state:?}/data/$name"
    say "removed the data of $name"
}

# `node2` for `2` and `node2`.
node_named() {
    local i=${1#node}
    load_shape
    is_started_once || die "never started here; see cluster.sh help"
    if ! [[ $i =~ ^[1-9][0-9]?$ ]] || ((i > nodes)); then
        misused "'$1' is no node; there are node1 to node$nodes"
    fi
    echo "node$i"
}

status() {
    load_shape
    is_started_once || { say "never started here; see cluster.sh help"; return 1; }
    local i pid health stopped=0
    printf '%-8s %-8s %-9s %-24s %-24s %s\n' NODE PID STATE INGRESS ADMIN NODE-PORT
    for ((i = 1; i <= nodes; i++)); do
        if pid=$(pid_of "node$i"); then
            health="${red}starting${plain}"
            ! is_serving "$i" || health="${green}serving${plain}"
        else
            pid=- health="${red}stopped${plain}" stopped=$((stopped + 1))
        fi
        printf '%-8s %-8s %s%*s %-24s %-24s %s\n' "node$i" "$pid" "$health" $((9 - $(visible_length "$health"))) '' \
            "http://127.0.0.1:$(ingress_port "$i")" "http://127.0.0.1:$(admin_port "$i")" "127.0.0.1:$(node_port "$i")"
    done
    ((stopped == 0))
}

visible_length() {
    local text=${1//"$green"/}
    text=${text//"$red"/} text=${text//"$plain"/}
    echo ${#text}
}

logs() {
    load_shape
    is_started_once || die "never started here"
    if (($# == 0)); then
        exec tail -n 20 -F "$state"/logs/node*.log
    fi
    local name
    name=$(node_named "$1")
    exec tail -n 100 -F "$state/logs/$name.log"
}

clean() {
    stop
    rm -rf "$state"
    say "removed $state"
}

# --- demo ----------------------------------------------------------------------------------------

services_port=${ABIDE_SERVICES_PORT:-9080}

headline() { printf '\n%s== %s%s\n' "$bold" "$*" "$plain"; }

post_json() { curl --silent --show-error --fail-with-body --max-time "${3:-30}" --header 'content-type: application/json' --data "$2" "$1"; }

# The value of a string or number in one line of JSON. Enough for what abidectl prints.
field() { sed -n "s/.*\"$1\":[ ]*\"\{0,1\}\([^\",}]*\)\"\{0,1\}.*/\1/p" | head -n 1; }

abidectl() { "$binaries/abidectl" --address "http://127.0.0.1:$(node_port "$survivor")" "$@"; }

# The number of the node that leads the partition of an invocation.
leader_of() {
    local partition name
    partition=$(abidectl partitions of "$1" --json | field partition)
    name=$(abidectl partitions list --json | grep -E "\"partition\": *${partition}[,}]" | field leader_name)
    [[ $partition =~ ^[0-9]+$ && $name =~ ^node[0-9]+$ ]] || return 1
    echo "$partition ${name#node}"
}

start_services() {
    local ledger=$1 pause_ms=$2 deadline=$((SECONDS + 10))
    stop_process services
    ! port_is_taken "$services_port" || die "port $services_port, which is to be the sample services' port, is taken by another program"
    launch services "$binaries/abide-example" --listen "127.0.0.1:$services_port" --ledger "$ledger" --pause-ms "$pause_ms"
    until port_is_taken "$services_port"; do
        ((SECONDS < deadline)) || die "the sample services did not start; see $state/logs/services.log"
        sleep 0.05
    done
}

services() {
    build
    mkdir -p "$state"/{logs,pids}
    start_services "$state/ledger" 2000
    say "the sample services listen at http://127.0.0.1:$services_port"
}

demo() {
    local order ledger invocation partition leader result step count survivor=1
    order=order-$(date +%s)
    ledger=$state/demo-ledger

    headline "Starting three nodes and the sample services"
    load_shape
    # With fewer, there is no second copy that could carry on.
    ((nodes >= 3)) || die "this cluster was formed with $nodes nodes, and the demo needs three; run cluster.sh clean first"
    build
    start_nodes
    status
    start_services "$ledger" 2000

    headline "Registering the services at node1's admin port"
    post_json "http://127.0.0.1:$(admin_port 1)/deployments" \
        "{\"uri\": \"http://127.0.0.1:$services_port\", \"force\": true}" >/dev/null
    echo "Greeter, Counter and Signup are registered"

    headline "Sending $order to Greeter/steps: three steps, two seconds apart"
    invocation=$(post_json "http://127.0.0.1:$(ingress_port 1)/Greeter/steps/send" "\"$order\"" | field invocationId)
    [[ $invocation == inv_* ]] || die "the ingress did not accept the invocation"
    echo "accepted as $invocation"
    wait_for_step "$ledger" "$order reserve"
    # The first step is done once its line is there; its result is in the log a moment later.
    sleep 0.5

    headline "Killing the node that leads its partition"
    read -r partition leader <<<"$(leader_of "$invocation")" || true
    [[ -n ${leader:-} ]] || die "abidectl does not tell the leader of $invocation"
    echo "partition $partition is led by node$leader: kill -9 $(pid_of "node$leader")"
    signal_process KILL "node$leader" || die "node$leader is not running"
    survivor=1
    ((leader != 1)) || survivor=2

    headline "Waiting for the result at node$survivor's ingress"
    local since=$SECONDS
    result=$(curl --silent --show-error --fail-with-body --max-time 60 \
        "http://127.0.0.1:$(ingress_port $survivor)/restate/invocation/$invocation/attach") ||
        die "no result: $result"
    echo "$result  (after $((SECONDS - since)) s)"
    [[ $result == "\"$order: reserve done, charge done, ship done\"" ]] || die "this is not the result that was promised"

    headline "What the steps did, by the services' own ledger"
    for step in reserve charge ship; do
        count=$(grep -cx "$order $step" "$ledger" || true)
        echo "$step: ran $count time$( ((count == 1)) || echo s)"
        [[ $count == 1 ]] || die "$step was to run once"
    done

    headline "Bringing node$leader back on its data"
    start_nodes
    status
    stop_process services

    printf '\n%sEvery step ran once, and the result arrived, though the leader was killed.%s\n' "$green" "$plain"
    echo "The cluster keeps running: cluster.sh status, cluster.sh stop."
}

wait_for_step() {
    local deadline=$((SECONDS + 30))
    until grep -qx "$2" "$1" 2>/dev/null; do
        ((SECONDS < deadline)) || die "'$2' did not happen within 30 s; see $state/logs"
        sleep 0.05
    done
}

# -------------------------------------------------------------------------------------------------

command=${1:-help}
shift || true
case $command in
    start) start "$@" ;;
    stop) stop "$@" ;;
    restart) restart "$@" ;;
    kill) kill_node "$@" ;;
    pause) pause_node "$@" ;;
    resume) resume_node "$@" ;;
    wipe) wipe_node "$@" ;;
    status) status ;;
    services) services ;;
    logs) logs "$@" ;;
    clean) clean ;;
    demo) demo ;;
    help | -h | --help) usage ;;
    *) misused "there is no command '$command'" ;;
esac
