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

analytic() {  # STEPS NEIGHBOUR SEEDS ITERATIONS
    make_one "analytic-cifar10-$1" "$2" --model analytic-cifar10 --steps "$1" --num-seeds "$3" --iterations "$4" \
        --rank 2 --teacher-steps 120
}

flow() {
    make_one "analytic-cifar10-flow-$1" "$2" --model analytic-cifar10 --scheduler flow-euler --steps "$1" \
        --num-seeds "$3" --iterations "$4" --rank 2 --teacher-steps 120
}

embedded() {
    make_one "embedded-$1" "$2" --model embedded --steps "$1" --num-seeds "$3" --iterations "$4" --rank 3
}

# The analytic model is cheap: several starts each, the best on held-out seeds is kept.
STARTS="--starts 4"
