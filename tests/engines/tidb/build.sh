#!/usr/bin/env bash
# Builds the TiDB server for the tests: build.sh FOLDER writes FOLDER/tidb.
#
# TiDB's parser is a separate module. The module proxy serves the parser of another commit than the
# server's. The files in parser/ add the names that this parser lacks.
set -euo pipefail
out=$(mkdir -p "$1" && cd "$1" && pwd)
cd "$(dirname "$0")"
export GOWORK="$out/go.work" GOFLAGS=-buildvcs=false

parser=github.com/pingcap/tidb/pkg/parser
version=$(GOWORK=off go list -m -f '{{.Version}}' $parser)
rm -rf "$out/parser"
cp -R "$(GOWORK=off go mod download -json $parser | sed -n 's/^\t"Dir": "\(.*\)",$/\1/p')" "$out/parser"
chmod -R u+w "$out/parser"
cp -R parser/. "$out/parser"
sed -i 's/^\tBurstable  *BurstableType$/&\n\tBoolValue bool/' "$out/parser/ast/ddl.go"
sed -i 's/^\tAuxiliaryColInOrderBy bool$/&\n\tIsUnfoldFromWildCard bool/' "$out/parser/ast/dml.go"
sed -i 's/\bIsReadOnly(/isReadOnly(/' "$out/parser/ast/util.go"
printf 'go 1.25.8\n\nuse %s\n\nreplace %s %s => ./parser\n' "$PWD" "$parser" "$version" > "$GOWORK"

# TiDB reads the internal maps of the Go runtime, and refuses a Go version that it was not checked with.
# Go 1.26 has the map layout of Go 1.25: compare internal/runtime/maps with TiDB's pkg/util/hack/map_abi.go.
case $(go env GOVERSION) in
go1.25* | go1.26*) ;;
*) echo "build.sh: needs Go 1.25 or 1.26" >&2 && exit 1 ;;
esac
go build -ldflags "-X 'runtime.buildVersion=$(go env GOVERSION), maps as in go1.25'" -o "$out/tidb" .
