package e2e

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
	"unsafe"

	"github.com/cilium/ebpf"

	"github.com/lvx-lb/lvx/bpf"
	"github.com/lvx-lb/lvx/testenv/rig"
)

// layoutInterval is how often the daemon lays its tables out anew although
// nothing has changed; as after each change, the other half comes into force.
const layoutInterval = 10 * time.Second

// tables is what the kernel's maps hold: the half that is in force, and the sum
// of each map but those in which packets are counted; of settings without the
// half and the time until which the daemon is taken to be there.
type tables struct {
	half uint32
	sums map[string]string
}

func readTables(t *testing.T, dir string) tables {
	t.Helper()
	v := tables{sums: map[string]string{}}
	names, err := filepath.Glob(filepath.Join(dir, "*"))
	must(t, err)
	for _, path := range names {
		name := filepath.Base(path)
		if strings.HasPrefix(name, "link_") {
			continue
		}
		m, err := ebpf.LoadPinnedMap(path, nil)
		must(t, err)
		text := readMap(t, m)
		if name == "settings" {
			s := (*bpf.Settings)(unsafe.Pointer(&text[0]))
			v.half, s.Half, s.Alive = s.Half, 0, 0
		}
		if m.Type() != ebpf.PerCPUArray && name != "verdicts" { // what packets count
			v.sums[name] = fmt.Sprintf("%x", sha256.Sum256(text))
		}
		must(t, m.Close())
	}
	return v
}

func readMap(t *testing.T, m *ebpf.Map) []byte {
	t.Helper()
	if memory, err := m.Memory(); err == nil {
		text, err := io.ReadAll(io.NewSectionReader(memory, 0, int64(memory.Size())))
		must(t, err)
		return text
	}
	var text bytes.Buffer
	var key, value []byte
	for all := m.Iterate(); m.Type() != ebpf.RingBuf && all.Next(&key, &value); {
		text.Write(key)
		text.Write(value)
	}
	return text.Bytes()
}

// What runs, exported, put into the file's place and reloaded, writes to no map
// of the kernel's: every byte is as it was, and so is the half in force, which
// the daemon changes with whatever it writes.
func TestExportedFileWritesNothing(t *testing.T) {
	s := newTyped(t)
	must(t, s.Direct(t.Context(), "d1", `services:
  - name: web
    listen: ["`+rig.VIP+`:80/tcp"]
    scheduler: rr
    reals: [{address: 172.25.0.12}, {address: 172.25.0.13}] # both
`))
	vip := "-t " + rig.VIP
	s.mustType("ipvsadm -A " + vip + ":81 -s wlc -p 60 && ipvsadm -a " + vip + ":81 -r 172.25.0.13 -w 3 && ipvsadm -e " + vip + ":80 -r 172.25.0.12 -w 5 && ipvsadm --set 100 0 0")
	s.lvx("weight", "web", "172.25.0.13", "7")
	rules := s.mustType("ipvsadm -S -n")
	host := s.Cluster.Host("d1")
	must(t, os.WriteFile(filepath.Join(host.Dir(), "lvx.yaml"), []byte(s.lvx("export")), 0o600))

	// Once it was laid out anew both halves hold the same, and there is time.
	first := readTables(t, host.PinDir()).half
	var before tables
	var began time.Time
	eventually(t, func() error {
		if began, before = time.Now(), readTables(t, host.PinDir()); before.half == first {
			return errors.New("the tables were not laid out anew")
		}
		return nil
	})
	s.lvx("reload")
	after := readTables(t, host.PinDir())
	if after.half != before.half && time.Since(began) < layoutInterval-time.Second {
		t.Error("the tables were written")
	}
	if len(before.sums) < 20 {
		t.Errorf("%d maps only", len(before.sums))
	}
	for _, name := range slices.Sorted(maps.Keys(before.sums)) {
		if before.sums[name] != after.sums[name] {
			t.Errorf("map %s is not as it was", name)
		}
	}
	s.want("the rules", s.mustType("ipvsadm -S -n"), rules)
	s.want("what is left of the layer", s.lvx("export", "--runtime"), "services: []\n")

	s.mustType("ipvsadm -e " + vip + ":81 -r 172.25.0.13 -w 4")
	if readTables(t, host.PinDir()).sums["reals"] == after.sums["reals"] {
		t.Error("an edit of a weight was not seen in the maps")
	}
}
