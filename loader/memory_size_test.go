package loader

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
)

// kernelMemory is what the kernel says that the maps take.
func kernelMemory(t *testing.T, d *Datapath) (all int64) {
	t.Helper()
	must(t, d.eachMap(func(name string, m **ebpf.Map) error {
		all += memlock(t, name, *m)
		if (*m).Type() != ebpf.ArrayOfMaps || (*m).MaxEntries() == 1 {
			return nil
		}
		piece, err := firstPiece(*m)
		if err != nil {
			return err
		}
		defer piece.Close()
		all += int64((*m).MaxEntries()) * memlock(t, name, piece)
		return nil
	}))
	return all
}

func memlock(t *testing.T, name string, m *ebpf.Map) int64 {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/self/fdinfo/%d", m.FD()))
	must(t, err)
	_, rest, _ := strings.Cut(string(text), "memlock:")
	fields := strings.Fields(rest)
	if len(fields) == 0 {
		t.Fatalf("map %s: the kernel does not say what it takes: %s", name, text)
	}
	n, err := strconv.ParseInt(fields[0], 10, 64)
	must(t, err)
	return n
}

// What is computed is what the kernel takes.
func TestMemoryOfIsTheKernels(t *testing.T) {
	for name, o := range map[string]Options{
		"small":     {Flows: 1000, Templates: 1000, Room: RoomFor(0, 0)},
		"with IPv6": {Flows: 20000, Templates: 1000, IPv6: true, Room: RoomFor(0, 0)},
		"in pieces": {Flows: 20000, Templates: 1000, IPv6: true, Room: RoomFor(0, 0), PiecesFrom: 1},
		"largest":   {Flows: 1000, Templates: 1000},
	} {
		t.Run(name, func(t *testing.T) {
			all := options(t)
			all.Flows, all.Templates, all.IPv6, all.Room, all.PiecesFrom = o.Flows, o.Templates, o.IPv6, o.Room, o.PiecesFrom
			d := open(t, all)
			computed, err := MemoryOf(all)
			must(t, err)
			got, want := computed.On(ebpf.MustPossibleCPU()), kernelMemory(t, d)
			if got < want*95/100 || got > want*105/100 {
				t.Errorf("computed %d bytes, the kernel says %d", got, want)
			}
		})
	}
}

// A host with 128 possible CPUs and a file of two services.
func TestMemoryFollowsTheConfiguration(t *testing.T) {
	const mib = 1 << 20
	o := Options{Flows: 1_000_000, Templates: 65_536, Room: RoomFor(6, 3*256)}
	m, err := MemoryOf(o)
	must(t, err)
	t.Logf("%.1f MiB and %.2f MiB for each CPU", float64(m.Shared)/mib, float64(m.PerCPU)/mib)
	if on := m.On(128); on > 128*mib {
		t.Errorf("%d MiB on 128 CPUs, want at most 128", on/mib)
	}
	o.Room = Room{}
	if m, err = MemoryOf(o); err != nil || m.PerCPU < 3*mib {
		t.Errorf("the largest: %d bytes for each CPU, %v", m.PerCPU, err)
	}
}
