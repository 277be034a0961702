#!/bin/bash
#SBATCH --job-name=idxtrain-retrain-digits
#SBATCH --dependency=singleton
#SBATCH --export=NONE
#SBATCH --output='/srv/100 %% digits/idxtrain-retrain-digits.out'
#SBATCH --open-mode=append
#SBATCH --time=60
#SBATCH --gpus=1
# Retrains at `0 3 * * 0`, in the node's time zone.
# Start, and retrain now: sbatch FILE. Stop: scancel --me --name=idxtrain-retrain-digits
# Each job first submits its successor for the next time, so the schedule survives a job that is killed.
# At most one job of this name runs (singleton), and at most one waits.
cd '/srv/100 % digits' || exit 1
export PATH='/srv/my venv/bin:/usr/bin:/bin'
export JAVA_HOME='/opt/java 17'
set -a
. /home/me/.secrets
set +a
unset SLURM_EXPORT_ENV

successor() {
    test -n "$(squeue --noheader --me --name=idxtrain-retrain-digits --states=PENDING --format=%i)" ||
        sbatch --quiet --begin="$('/srv/my venv/bin/python' -I -m deploy.schedule.expression '0 3 * * 0')" "$0"
}

successor || echo "job $SLURM_JOB_ID: cannot submit its successor; it tries again at its end" >&2
'/srv/my venv/bin/idxtrain' retrain --data 'the data' --set=gate.delta=0.5% --notify 'echo $ME "it'"'"'s"' --log '/srv/100 % digits/work/retrain/digits/retrain.log'
code=$?
successor || echo "job $SLURM_JOB_ID: cannot submit its successor; submit this script again" >&2
exit $code
