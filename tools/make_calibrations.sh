#!/bin/sh
# Make the calibrations that come with the package, each from its neighbour: sh tools/make_calibrations.sh FOLDER
# About two hours on two cores; what is there already is left alone, so that an interrupted run goes on.
set -e
folder=${1:?give a folder to write to}
mkdir -p "$folder"

make_one() {  # NAME NEIGHBOUR options...
    name=$1 neighbour=$2
    shift 2
    [ -f "$folder/$name.json" ] && return
    [ "$neighbour" = none ] || set -- "$@" --warm-start "$folder/$neighbour.json"
    lml calibrate --resume --out "$folder/$name.json" "$@"
}

analytic() {  # STEPS NEIGHBOUR SEEDS ITERATIONS options...
    steps=$1 from=$2 seeds=$3 iterations=$4
    shift 4
    make_one "analytic-cifar10-$steps" "$from" --model analytic-cifar10 --steps "$steps" --num-seeds "$seeds" \
        --iterations "$iterations" --rank 2 --teacher-steps 120 "$@"
}

flow() {
    steps=$1 from=$2 seeds=$3 iterations=$4
    shift 4
    make_one "analytic-cifar10-flow-$steps" "$from" --model analytic-cifar10 --scheduler flow-euler --steps "$steps" \
        --num-seeds "$seeds" --iterations "$iterations" --rank 2 --teacher-steps 120 "$@"
}

embedded() {
    make_one "embedded-$1" "$2" --model embedded --steps "$1" --num-seeds "$3" --iterations "$4" --rank 3
}

# From eight steps down and up. The analytic model is cheap: at few steps several starts, the best of them is kept.
analytic 8 none 192 40 --starts 4
analytic 7 analytic-cifar10-8 192 25 --starts 4
analytic 6 analytic-cifar10-7 192 25 --starts 4
analytic 5 analytic-cifar10-6 192 25 --starts 4
analytic 10 analytic-cifar10-8 256 15
analytic 12 analytic-cifar10-10 128 12
analytic 15 analytic-cifar10-12 64 10
analytic 20 analytic-cifar10-15 64 8
flow 8 none 192 25 --starts 4
flow 7 analytic-cifar10-flow-8 192 25 --starts 4
flow 6 analytic-cifar10-flow-7 192 25 --starts 4
flow 5 analytic-cifar10-flow-6 192 25 --starts 4
flow 10 analytic-cifar10-flow-8 128 12
flow 12 analytic-cifar10-flow-10 128 10
flow 15 analytic-cifar10-flow-12 64 10
flow 20 analytic-cifar10-flow-15 64 8
embedded 8 none 96 15
embedded 7 embedded-8 96 15
embedded 6 embedded-7 128 20
embedded 5 embedded-6 128 25
embedded 10 embedded-8 96 8
embedded 12 embedded-10 64 7
embedded 15 embedded-12 64 5
embedded 20 embedded-15 64 4
