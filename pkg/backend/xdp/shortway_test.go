package xdp

import (
	"flag"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/btf"
	"golang.org/x/sys/unix"

	"github.com/lvx-lb/lvx/bpf"
	"github.com/lvx-lb/lvx/pkg/connsync"
	"github.com/lvx-lb/lvx/pkg/lb"
)

var recordShortWay = flag.Bool("record-short-way", false, "write testdata/shortway.txt anew instead of comparing with it")

const shortWayFile = "testdata/shortway.txt"

// The program's first function is all that nearly every packet runs through.
// Its instructions are counted by kind: as the object has them, and as this
// kernel has translated them (the file has the kernels that were recorded).
// Work on the rest of the program must not change them. Work that is meant to
// change them is measured, then recorded:
//
//	go test -run TestShortWayInstructions ./pkg/backend/xdp -record-short-way
func TestShortWayInstructions(t *testing.T) {
	spec, err := bpf.LoadSpec()
	must(t, err)
	h := newStill(t, 1024, 1024)
	info, err := h.dp.Program("lvx0").Info()
	must(t, err)
	translated, err := info.Instructions()
	must(t, err)
	got := map[string]string{
		"object":                            kindsOf(firstFunction(spec.Programs["lb"].Instructions)),
		"translated by " + kernelVersion(t): kindsOf(firstFunction(translated)),
	}
	recorded := readShortWay(t)
	if *recordShortWay {
		maps.Copy(recorded, got)
		writeShortWay(t, recorded)
	}
	if recorded["object"] == "" {
		t.Fatalf("%s has no section \"object\"", shortWayFile)
	}
	for name, kinds := range got {
		want, ok := recorded[name]
		if !ok {
			t.Logf("%s: this kernel is not recorded:\n%s", name, kinds)
		} else if kinds != want {
			t.Errorf("%s: the short way is\n%swant\n%s", name, kinds, want)
		}
	}
}

// Sync adds nothing to the short way: with it and without it the interface has
// one program, of the same translated instructions.
func TestShortWayIsTheSameWithSync(t *testing.T) {
	h := newStill(t, 1024, 1024)
	h.apply(lb.State{Services: []lb.Service{webService(2)}})
	read := func() (id ebpf.ProgramID, short string) {
		t.Helper()
		info, err := h.dp.Program("lvx0").Info()
		must(t, err)
		all, err := info.Instructions()
		must(t, err)
		id, _ = info.ID()
		return id, fmt.Sprint(firstFunction(all))
	}
	id, without := read()
	_, stop := h.TellNews(func(*connsync.Batch) {})
	defer stop()
	h.open(at(1), web)
	h.mu.Lock()
	isOn := h.dp.Settings.Flags&bpf.SettingNews != 0
	h.mu.Unlock()
	again, with := read()
	if !isOn || id != again || without != with || without == "" {
		t.Errorf("sync is on: %t; program %d, then %d; same instructions: %t", isOn, id, again, without == with)
	}
}

// IPv6 adds nothing to the short way: where it is served and where it is not,
// the interface has the same program, of the same translated instructions, and
// the tail call to IPv6's program is behind the short way (lb.c). What is
// compiled in for it costs IPv4 nothing: `go run ./bench --against REVISION`.
func TestShortWayIsTheSameWithIPv6(t *testing.T) {
	tags, short := map[bool]string{}, map[bool]string{}
	for _, isServed := range []bool{false, true} {
		t.Run(fmt.Sprintf("served %t", isServed), func(t *testing.T) {
			h := openHarness(t, Options{Flows: 1024, Templates: 1024, StillClock: true, IPv6: isServed})
			info, err := h.dp.Program("lvx0").Info()
			must(t, err)
			all, err := info.Instructions()
			must(t, err)
			tags[isServed], short[isServed] = info.Tag, kindsOf(firstFunction(all))
		})
	}
	if tags[false] != tags[true] || short[false] != short[true] {
		t.Errorf("programs %v; the short way without IPv6 is\n%s\nwith it\n%s", tags, short[false], short[true])
	}
}

// firstFunction is everything in front of the second function.
func firstFunction(all asm.Instructions) asm.Instructions {
	for i := range all {
		if i > 0 && btf.FuncMetadata(&all[i]) != nil {
			return all[:i]
		}
	}
	return all
}

// kindsOf counts instructions by kind, a line each, after their number.
func kindsOf(instructions asm.Instructions) string {
	count := map[string]int{}
	for _, ins := range instructions {
		kind := ins.OpCode.String()
		if ins.IsBuiltinCall() {
			kind = "Call helper" // whose number the kernel has replaced by an address
		}
		count[kind]++
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%d instructions\n", len(instructions))
	for _, kind := range slices.Sorted(maps.Keys(count)) {
		fmt.Fprintf(&b, "%d %s\n", count[kind], kind)
	}
	return b.String()
}

// kernelVersion is the first two numbers of the running kernel's release.
func kernelVersion(t *testing.T) string {
	var u unix.Utsname
	must(t, unix.Uname(&u))
	parts := strings.SplitN(unix.ByteSliceToString(u.Release[:]), ".", 3)
	return strings.Join(parts[:2], ".")
}

// readShortWay reads the sections of the file, each headed by "# NAME".
func readShortWay(t *testing.T) map[string]string {
	text, err := os.ReadFile(shortWayFile)
	must(t, err)
	sections := map[string]string{}
	for _, section := range strings.Split("\n"+string(text), "\n# ")[1:] {
		name, kinds, _ := strings.Cut(section, "\n")
		sections[name] = strings.TrimRight(kinds, "\n") + "\n"
	}
	return sections
}

func writeShortWay(t *testing.T, sections map[string]string) {
	var b strings.Builder
	for _, name := range slices.Sorted(maps.Keys(sections)) {
		fmt.Fprintf(&b, "# %s\n%s", name, sections[name])
	}
	must(t, os.WriteFile(shortWayFile, []byte(b.String()), 0o600))
}
