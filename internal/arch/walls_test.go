package arch

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const module = "github.com/lvx-lb/lvx"

// tags builds also what runs in a virtual machine only.
const tags = "ipvsvm"

// everything as the only entry of a wall lets a package import all of ours.
const everything = "..."

// walls says which packages of ours a package may import outside its tests.
// A package without an entry has the wall of its nearest parent that has one.
var walls = map[string][]string{
	"bench":               {everything},
	"bpf":                 {},
	"cmd":                 {everything},
	"docs":                {},
	"internal/arch":       {},
	"packaging":           {},
	"internal/jsonfile":   {},
	"internal/kernellist": {},
	"internal/progress":   {},
	"loader":              {"bpf", "loader/echo", "loader/gate"},
	"loader/echo":         {},
	"loader/gate":         {"bpf", "loader/tc"},
	"loader/probe":        {"loader/tc", "pkg/lb", "internal/kernellist"}, // how a probe is forwarded
	"loader/tc":           {},
	"pkg/admin":           {"pkg/connsync", "pkg/director", "pkg/ipvsadm", "pkg/lb", "pkg/guard", "pkg/warnings", "pkg/history"},
	"pkg/backend/auto":    {"pkg/lb"},
	"pkg/backend/ipvs":    {"pkg/lb", "internal/jsonfile"},
	"pkg/backend/xdp":     {"bpf", "loader", "pkg/connsync", "pkg/sched", "pkg/lb"},
	"pkg/bfd":             {},
	"pkg/bgp":             {"internal/jsonfile"},
	"pkg/config":          {"pkg/bfd", "pkg/connsync", "pkg/guard", "pkg/health", "pkg/vrrp", "pkg/lb"},
	"pkg/connsync":        {"pkg/guard"},
	"pkg/director":        {"pkg/bgp", "pkg/connsync", "pkg/config", "pkg/ipvsadm", "pkg/health", "pkg/vrrp", "pkg/notify", "pkg/lb", "pkg/warnings", "pkg/history", "internal/jsonfile"},
	"pkg/daemon":          {everything},
	"pkg/doctor":          {"internal/kernellist", "pkg/config", "pkg/director", "pkg/hostinfo", "pkg/lb", "pkg/neigh", "pkg/netfilter", "pkg/warnings"},
	"pkg/guard":           {},
	"pkg/history":         {"pkg/guard", "internal/jsonfile"},
	"pkg/warnings":        {},
	"pkg/health":          {"pkg/lb", "pkg/guard"},
	"pkg/ipvsadm":         {"pkg/lb"},
	"pkg/hostinfo":        {"internal/kernellist", "pkg/backend/ipvs"},
	"pkg/keepalived":      {"pkg/bfd", "pkg/config", "pkg/health", "pkg/ipvsadm", "pkg/lb"},
	"pkg/lb":              {},
	"pkg/lb/lbtest":       {"pkg/lb"},
	"pkg/neigh":           {"internal/kernellist"},
	"pkg/netfilter":       {"pkg/lb"},
	"pkg/notify":          {"pkg/lb", "pkg/guard"},
	"pkg/pcapng":          {},
	"pkg/realserver":      {"internal/kernellist", "internal/jsonfile", "pkg/lb", "pkg/vip"},
	"pkg/sched":           {},
	"pkg/vip":             {"internal/kernellist", "internal/jsonfile"},
	"pkg/vrrp":            {"internal/kernellist", "pkg/vip", "pkg/guard"},
	"pkg/vrrp/internal":   {"pkg/vrrp"}, // a daemon for its tests
	"testenv":             {everything},
}

// libraries belong to the packages named, and to those below them. testenv
// loads a program that passes everything, on the ports of its switch; bench
// loads what the packet path is measured against.
var libraries = map[string][]string{
	"github.com/cilium/ebpf":       {"bpf", "loader", "pkg/backend/xdp", "testenv", "bench"},
	"github.com/osrg/gobgp":        {"pkg/bgp"},
	"github.com/prometheus":        {"pkg/admin"},
	"github.com/spf13/cobra":       {"cmd"},
	"gopkg.in/yaml.v3":             {"pkg/config"},
	"github.com/cloudflare/ipvs":   {"pkg/backend/ipvs"},
	"github.com/google/nftables":   {"pkg/backend/ipvs", "pkg/netfilter", "pkg/realserver"},
	"github.com/coreos/go-systemd": {"pkg/daemon"},
	"github.com/godbus/dbus":       {"pkg/daemon"},
}

// pkg is what `go list -json` tells of a package.
type pkg struct {
	ImportPath   string
	Dir          string
	GoFiles      []string
	TestGoFiles  []string
	XTestGoFiles []string
	Imports      []string
}

// room is the package's path within the module.
func (p pkg) room() string {
	return strings.TrimPrefix(strings.TrimPrefix(p.ImportPath, module), "/")
}

// packages lists every package of the module.
func packages(t *testing.T) []pkg {
	t.Helper()
	cmd := exec.Command("go", "list", "-e", "-json", "-tags", tags, "./...")
	cmd.Dir = filepath.Join("..", "..")
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	var all []pkg
	for d := json.NewDecoder(bytes.NewReader(out)); ; {
		var p pkg
		if err := d.Decode(&p); errors.Is(err, io.EOF) {
			return all
		} else if err != nil {
			t.Fatalf("output of go list: %v", err)
		}
		all = append(all, p)
	}
}

// below reports whether path is root or lies below it.
func below(path, root string) bool {
	return path == root || strings.HasPrefix(path, root+"/")
}

// wall finds the wall of a room: its own or its nearest parent's.
func wall(room string) ([]string, bool) {
	for {
		if allowed, ok := walls[room]; ok {
			return allowed, true
		}
		i := strings.LastIndex(room, "/")
		if i < 0 {
			return nil, false
		}
		room = room[:i]
	}
}

// breaches lists the imports of p that a wall or a library rule forbids.
func breaches(p pkg) []string {
	allowed, ok := wall(p.room())
	if !ok {
		return []string{fmt.Sprintf("%s: no wall is declared for it (add one to internal/arch)", p.room())}
	}
	var found []string
	for _, imported := range p.Imports {
		if below(imported, module) {
			room := pkg{ImportPath: imported}.room()
			if !slices.Contains(allowed, room) && !slices.Contains(allowed, everything) {
				found = append(found, fmt.Sprintf("%s imports %s (allowed: %v)", p.room(), room, allowed))
			}
			continue
		}
		for library, rooms := range libraries {
			owner := func(room string) bool { return below(p.room(), room) }
			if below(imported, library) && !slices.ContainsFunc(rooms, owner) {
				found = append(found, fmt.Sprintf("%s imports %s (only for %v)", p.room(), imported, rooms))
			}
		}
	}
	return found
}

func TestImportWalls(t *testing.T) {
	for _, p := range packages(t) {
		for _, breach := range breaches(p) {
			t.Error(breach)
		}
	}
}

// The vocabulary is free of everything but the standard library, so that any
// package can speak it.
func TestVocabularyIsPure(t *testing.T) {
	for _, p := range packages(t) {
		if p.room() != "pkg/lb" {
			continue
		}
		for _, imported := range p.Imports {
			if first, _, _ := strings.Cut(imported, "/"); strings.Contains(first, ".") {
				t.Errorf("pkg/lb imports %s (standard library only)", imported)
			}
		}
	}
}

func TestBreaches(t *testing.T) {
	of := func(room string, imports ...string) pkg {
		return pkg{ImportPath: module + "/" + room, Imports: imports}
	}
	tests := map[string]struct {
		pkg  pkg
		want []string
	}{
		"own wall":      {of("pkg/config", module+"/pkg/lb", "fmt", "gopkg.in/yaml.v3"), nil},
		"parent's wall": {of("cmd/lvx", module+"/pkg/director", "github.com/spf13/cobra"), nil},
		"breach": {
			of("pkg/lb", module+"/pkg/config"),
			[]string{"pkg/lb imports pkg/config (allowed: [])"},
		},
		"child is not its parent": {
			of("pkg/health", module+"/pkg/lb/lbtest"),
			[]string{"pkg/health imports pkg/lb/lbtest (allowed: [pkg/lb pkg/guard])"},
		},
		"library of another room": {
			of("pkg/director", "github.com/cilium/ebpf/link"),
			[]string{"pkg/director imports github.com/cilium/ebpf/link (only for [bpf loader pkg/backend/xdp testenv bench])"},
		},
		"undeclared": {
			of("pkg/util"),
			[]string{"pkg/util: no wall is declared for it (add one to internal/arch)"},
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(test.want, breaches(test.pkg)); diff != "" {
				t.Errorf("breaches (-want +got):\n%s", diff)
			}
		})
	}
}

func TestWallsNameRoomsOnly(t *testing.T) {
	for room, allowed := range walls {
		for _, name := range allowed {
			if name == everything {
				continue
			}
			if _, ok := walls[name]; !ok {
				t.Errorf("wall of %s allows %s, which has no wall itself", room, name)
			}
		}
	}
}
