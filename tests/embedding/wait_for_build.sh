#!/bin/sh
# Waits for a build to finish, and ends as it did: wait_for_build.sh 7, while the build's machine says
#   cometd-lite push builds/7 'compiling'
#   cometd-lite push builds/7 --json '{"done": true, "status": 0, "took": "3m"}'
# Whatever was said before this began is told too; restarts of the server are waited for.
set -eu
end=$(cometd-lite follow "builds/$1" --after oldest | while read -r line; do
  case $line in
    *'"done"'*) echo "$line"; break ;;
    *) echo "build $1: $line" >&2 ;;
  esac
done)
echo "build $1 took $(echo "$end" | jq -r .took)"
exit "$(echo "$end" | jq .status)"
