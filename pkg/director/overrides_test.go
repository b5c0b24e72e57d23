package director

import (
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

func weight(w uint16) *uint16 { return &w }

func TestOverridesEdit(t *testing.T) {
	var o Overrides
	o = o.edit("web", key(2), func(v *Override) { v.Drain = true })
	first := o
	o = o.edit("web", key(1), func(v *Override) { v.Weight = weight(5) })
	o = o.edit("mail", key(3), func(v *Override) { v.Weight = weight(0) })
	want := Overrides{
		{Service: "mail", Real: key(3), Weight: weight(0)},
		{Service: "web", Real: key(1), Weight: weight(5)},
		{Service: "web", Real: key(2), Drain: true},
	}
	if d := cmp.Diff(want, o, compareAddrs); d != "" {
		t.Error(d)
	}
	if len(first) != 1 {
		t.Error("edit changed its receiver")
	}
	o = o.edit("web", key(2), func(v *Override) { v.Drain = false })
	if o.find("web", key(2)) >= 0 {
		t.Error("an override that says nothing must go")
	}
	if got := want[1].String() + "; " + want[2].String(); got != "weight 5; drain" {
		t.Error(got)
	}
}

// An override is in force before anybody tries to store it, and survives.
func TestOverridesSurvive(t *testing.T) {
	cfg := configOf(service("web", 1, 1))
	cfg.StateDir = filepath.Join(t.TempDir(), "state") // made when needed
	inBubble(t, cfg, func(t *testing.T, r *rig) {
		r.health.result(1, true, "")
		r.health.result(2, true, "")
		got, err := r.Drain(WithUID(t.Context(), 0), "web", server(2).String(), DrainOptions{})
		if err != nil || got.Warning != "" || len(got.Did) != 1 || got.Did[0] != "web 10.0.0.12: drained; 0 active and 0 inactive connections are left" {
			t.Errorf("%+v, %v", got, err)
		}
		r.want("drained", "1*1 2*0")
	})
	inBubble(t, cfg, func(t *testing.T, r *rig) { r.want("after a restart", "1*1 2*0") })
	entries, _ := os.ReadDir(cfg.StateDir)
	for _, e := range entries {
		if strings.Contains(e.Name(), ".new") || strings.Contains(e.Name(), "broken") {
			t.Errorf("left behind: %s", e.Name())
		}
	}
}

// Fault 2: notes that a power cut has broken are moved aside, said, and stop
// nothing; the warning ends when somebody has removed the file.
func TestFault02BrokenNotes(t *testing.T) {
	for _, name := range []string{overridesFile, memoryFile} {
		for what, text := range map[string]string{"empty": "", "zeros": "\x00\x00", "garbage": "{", "no real": `[{"service":"web"}]`, "type": `"x"`} {
			if name == memoryFile && what == "no real" {
				continue
			}
			t.Run(name+" "+what, func(t *testing.T) {
				cfg := configOf(service("web", 1))
				cfg.StateDir = t.TempDir()
				if err := os.WriteFile(filepath.Join(cfg.StateDir, name), []byte(text), 0o600); err != nil {
					t.Fatal(err)
				}
				inBubble(t, cfg, func(t *testing.T, r *rig) {
					r.health.result(1, true, "")
					r.want("it serves", "1*1")
					moved, _ := filepath.Glob(filepath.Join(cfg.StateDir, name+".broken-*"))
					if got := r.warned(brokenFile); len(moved) != 1 || len(got) != 1 || !strings.Contains(got[0], moved[0]) {
						t.Fatalf("moved aside %q, warnings %q", moved, got)
					}
					if err := os.Remove(moved[0]); err != nil {
						t.Fatal(err)
					}
					time.Sleep(2 * driftInterval)
					synctest.Wait()
					if got := r.warned(brokenFile); len(got) != 0 {
						t.Errorf("the warning outlives the file: %q", got)
					}
				})
			})
		}
	}
}

// Fault 2: a state_dir that cannot be written stops nothing; an override is in
// force and says that it will not survive.
func TestFault02StateDirUnwritable(t *testing.T) {
	cfg := configOf(service("web", 1, 1))
	cfg.StateDir = filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(cfg.StateDir, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	inBubble(t, cfg, func(t *testing.T, r *rig) {
		r.health.result(1, true, "")
		got, err := r.SetWeight(t.Context(), "web", server(1).String(), weight(7))
		if err != nil || !strings.Contains(got.Warning, "not survive a restart") {
			t.Errorf("%+v, %v", got, err)
		}
		r.want("in force", "1*7")
		if got := r.warned(notStored); len(got) != 2 || !strings.Contains(got[1], overridesFile) {
			t.Errorf("warnings %q", got)
		}
		if _, err := r.Reload(t.Context()); err != nil {
			t.Errorf("reload: %v", err)
		}
		if err := os.Remove(cfg.StateDir); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		if got := r.warned(notStored); len(got) != 0 {
			t.Errorf("warnings outlive the cause: %q", got)
		}
	})
	inBubble(t, cfg, func(t *testing.T, r *rig) { r.want("stored after all", "1*7") })
}

// warned lists the warnings of a kind: subject and text.
func (r *rig) warned(kind string) (all []string) {
	synctest.Wait()
	for _, w := range r.warnings.List() {
		if w.Kind == kind {
			all = append(all, w.Subject+": "+w.Text)
		}
	}
	return all
}

func FuzzReadOverrides(f *testing.F) {
	f.Add([]byte(`[{"service":"web","real":"10.0.0.12:0","weight":3},{"service":"web","real":"[2001:db8::1]:80","drain":true}]`))
	f.Add([]byte(`[{"service":"web","real":"10.0.0.12:0","weight":3},{"service":"web","real":"10.0.0.12:0"}]`))
	f.Add([]byte(`null`))
	f.Fuzz(func(t *testing.T, b []byte) {
		o, err := readOverrides(b)
		if err != nil {
			return
		}
		type real struct {
			service string
			key     netip.AddrPort
		}
		seen := map[real]bool{}
		for _, v := range o {
			k := real{v.Service, v.Real}
			if seen[k] || v.Service == "" || !v.Real.Addr().IsValid() || v.Weight == nil && !v.Drain {
				t.Fatalf("%q: %+v", b, o)
			}
			seen[k] = true
		}
	})
}
