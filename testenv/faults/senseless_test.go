package faults

import (
	"encoding/json"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/lvx-lb/lvx/internal/jsonfile"
	"github.com/lvx-lb/lvx/testenv"
	"github.com/lvx-lb/lvx/testenv/rig"
)

// eachValue replaces the values of JSON that are no lists or maps.
func eachValue(v any, change func(any) any) any {
	switch v := v.(type) {
	case map[string]any:
		changed := map[string]any{}
		for key, value := range v {
			changed[key] = eachValue(value, change)
		}
		return changed
	case []any:
		changed := make([]any, len(v))
		for i := range v {
			changed[i] = eachValue(v[i], change)
		}
		return changed
	}
	return change(v)
}

// eachList replaces the lists of JSON.
func eachList(v any, change func([]any) []any) any {
	switch v := v.(type) {
	case map[string]any:
		changed := map[string]any{}
		for key, value := range v {
			changed[key] = eachList(value, change)
		}
		return changed
	case []any:
		changed := make([]any, len(v))
		for i := range v {
			changed[i] = eachList(v[i], change)
		}
		return change(changed)
	}
	return v
}

// numbers replaces the numbers of JSON.
func numbers(by any) func(any) any {
	return func(v any) any {
		return eachValue(v, func(v any) any {
			if _, is := v.(float64); is {
				return by
			}
			return v
		})
	}
}

// words replaces the words of JSON that are wanted; the boot that the notes are
// of stays, so that they count.
func words(boot string, by func(string) any) func(any) any {
	return func(v any) any {
		return eachValue(v, func(v any) any {
			if s, is := v.(string); is && s != boot {
				return by(s)
			}
			return v
		})
	}
}

// otherFamily makes of an address one of IPv6, the rest stays.
func otherFamily(s string) any {
	if _, err := netip.ParseAddr(s); err == nil {
		return "2001:db8::" + s
	}
	if p, err := netip.ParsePrefix(s); err == nil {
		return "2001:db8::" + p.Addr().String() + "/64"
	}
	return s
}

// director is a director that checks its reals, and its host.
func director(t *testing.T) (*rig.Rig, *testenv.Host) {
	t.Helper()
	r := newRig(t, testenv.Shape{Directors: 1})
	must(t, r.Direct(t.Context(), "d1", checked("type: tcp")))
	realsUp(t, r, "r1", "r2")
	return r, r.Cluster.Host("d1")
}

// Notes that are JSON and make no sense: lvx serves, keeps the addresses of the
// host, answers its commands, and keeps notes again.
func TestFault02SenselessNotes(t *testing.T) {
	t.Parallel() // it waits most of its time
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	must(t, err)
	sameBoot := strings.TrimSpace(string(boot))
	edits := []string{
		"weight web 172.25.0.12 2", "ipvsadm -A -t 172.25.0.101:80 -s wrr -p 100", "ipvsadm -a -t 172.25.0.101:80 -r 172.25.0.13 -w 3",
		"ipvsadm --set 100 100 100",
	}
	for name, senseless := range map[string]func(any) any{
		"huge numbers":         numbers(1e300),
		"numbers below 0":      numbers(-1),
		"numbers of 20 digits": numbers(float64(1 << 62)),
		"other words":          words(sameBoot, func(string) any { return "nonsense\x00\n" }),
		"empty words":          words(sameBoot, func(string) any { return "" }),
		"numbers for words":    words(sameBoot, func(string) any { return 7 }),
		"the other family":     words(sameBoot, otherFamily),
		"the host's addresses": words(sameBoot, func(s string) any {
			return strings.NewReplacer(rig.VIP, "172.25.0.11", "172.25.0.101", "172.25.0.11").Replace(s)
		}),
		"nothing":               func(any) any { return nil },
		"nothing within":        func(v any) any { return eachValue(v, func(any) any { return nil }) },
		"everything twice":      func(v any) any { return eachList(v, func(l []any) []any { return append(slices.Clone(l), l...) }) },
		"lists for values":      func(v any) any { return eachValue(v, func(v any) any { return []any{v} }) },
		"empty lists":           func(v any) any { return eachList(v, func([]any) []any { return []any{} }) },
		"another kind of value": func(any) any { return map[string]any{"vips": map[string]any{"a": 1}, "boot": sameBoot} },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r, d1 := director(t)
			for _, edit := range edits {
				run(t, d1, "sh", "-c", "LVX_SOCKET="+r.Socket("d1")+" "+lvx+" "+edit+" || true")
			}
			notes := map[string]any{}
			eventually(t, func() (err error) { // they are written a moment later
				for _, name := range []string{"vips.json", "overrides.json", "memory.json", "runtime.json"} {
					text, err := os.ReadFile(filepath.Join(d1.Dir(), name))
					if err != nil {
						return err
					}
					var v any
					if err := json.Unmarshal(text, &v); err != nil {
						return err
					}
					notes[name] = v
				}
				return nil
			})
			r.Kill("d1")
			for _, name := range slices.Sorted(maps.Keys(notes)) {
				text, err := json.Marshal(senseless(notes[name]))
				must(t, err)
				must(t, os.WriteFile(filepath.Join(d1.Dir(), name), text, 0o600))
			}
			must(t, r.Start(t.Context(), "d1"))
			realsUp(t, r, "r1", "r2")
			for _, command := range []string{"status", "list -n", "history", "metrics", "export"} {
				if _, err := r.LVX(t.Context(), "d1", strings.Fields(command)...); err != nil {
					t.Errorf("lvx %s: %v", command, err)
				}
			}
			if out := run(t, d1, "ip", "address", "show", "dev", "eth0"); !strings.Contains(out, "172.25.0.11/24") || !strings.Contains(out, rig.VIP+"/32") {
				t.Errorf("addresses are missing:\n%s", out)
			}
		})
	}
}

// Notes larger than any that lvx writes are not read, and that is said.
func TestFault02EndlessNotes(t *testing.T) {
	t.Parallel() // it waits most of its time
	r, d1 := director(t)
	r.Kill("d1")
	for _, name := range []string{"vips.json", "overrides.json", "memory.json", "runtime.json"} {
		must(t, os.WriteFile(filepath.Join(d1.Dir(), name), nil, 0o600))
		must(t, os.Truncate(filepath.Join(d1.Dir(), name), jsonfile.MaxSize+1))
	}
	must(t, r.Start(t.Context(), "d1"))
	realsUp(t, r, "r1", "r2")
	if log := r.Daemons["d1"].Output(); !strings.Contains(log, "more than") {
		t.Errorf("the log does not say that notes are too large:\n%s", log)
	}
}
