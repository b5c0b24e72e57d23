package director

import (
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

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

func TestOverridesSurvive(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state") // made when needed
	if o, err := loadOverrides(dir); o != nil || err != nil {
		t.Fatalf("no file: %v, %v", o, err)
	}
	want := Overrides{{Service: "mail", Real: key(3), Weight: weight(0)}, {Service: "web", Real: key(2), Drain: true}}
	for range 2 { // replacing a file is no different
		if err := saveOverrides(dir, want); err != nil {
			t.Fatal(err)
		}
	}
	got, err := loadOverrides(dir)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(want, got, compareAddrs); d != "" {
		t.Error(d)
	}
	entries, _ := os.ReadDir(dir)
	if len(entries) != 1 {
		t.Errorf("left behind: %v", entries)
	}
}

func TestOverridesDamagedFile(t *testing.T) {
	dir := t.TempDir()
	for _, text := range []string{"", "{", `[{"service":"web"}]`, `[{"real":"10.0.0.1:0"}]`, `[{"service":"web","real":"x"}]`, `[{"service":"web","real":"10.0.0.1:0","weight":70000}]`} {
		if err := os.WriteFile(filepath.Join(dir, overridesFile), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := loadOverrides(dir)
		if err == nil || !strings.Contains(err.Error(), overridesFile) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%q: %v", text, err)
		}
	}
}

func TestOverridesUnwritable(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := saveOverrides(file, nil); err == nil {
		t.Error("a file as state_dir was accepted")
	}
}

func FuzzParseOverrides(f *testing.F) {
	f.Add([]byte(`[{"service":"web","real":"10.0.0.12:0","weight":3},{"service":"web","real":"[2001:db8::1]:80","drain":true}]`))
	f.Add([]byte(`[{"service":"web","real":"10.0.0.12:0","weight":3},{"service":"web","real":"10.0.0.12:0"}]`))
	f.Add([]byte(`null`))
	f.Fuzz(func(t *testing.T, b []byte) {
		o, err := parseOverrides(b)
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
