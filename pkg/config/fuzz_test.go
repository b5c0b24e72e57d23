package config_test

import (
	"errors"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/lvx-lb/lvx/pkg/config"
	"github.com/lvx-lb/lvx/pkg/health"
	"github.com/lvx-lb/lvx/pkg/lb"
)

var oneLine = regexp.MustCompile(`^fuzz\.yaml:([0-9]+): [^\n\r\x1b]+$`)

// Whatever a file holds, it is a configuration that keeps its promises, or
// one line of error with a line that the file has.
func FuzzParse(f *testing.F) {
	f.Add([]byte(config.Reference()))
	f.Add([]byte("{? [a] : 1, <<: {b: 2}}"))
	f.Add([]byte("interface: &a [*a]"))
	f.Add([]byte("interface: eth0\nvrrp: &v {<<: *v}"))
	f.Add([]byte("a: 'b\n\n"))
	f.Add([]byte("%YAML 1.1\n---\ninterface: !!binary aGk="))
	f.Add([]byte("interface: eth0\nadmin: ! {}\n"))
	f.Add([]byte("interface: |\n eth0\n"))
	for _, data := range wrong(f) {
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		cfg, err := config.Parse("fuzz.yaml", data)
		if err != nil {
			checkError(t, cfg, err, data)
			return
		}
		checkPromises(t, cfg)
	})
}

func checkError(t *testing.T, cfg *config.Config, err error, data []byte) {
	t.Helper()
	m := oneLine.FindStringSubmatch(err.Error())
	if m == nil || cfg != nil {
		t.Fatalf("%q with configuration %v", err, cfg)
	}
	if n, _ := strconv.Atoi(m[1]); n < 1 || n > 1+strings.Count(string(data), "\n")+strings.Count(string(data), "\r")+strings.Count(string(data), "\u0085")+
		strings.Count(string(data), "\u2028")+strings.Count(string(data), "\u2029") {
		t.Fatalf("a line that is not there: %s", err)
	}
	var e *config.Error
	if !errors.As(err, &e) {
		t.Fatalf("error of type %T", err)
	}
}

// checkPromises looks at what the rest of lvx relies on.
func checkPromises(t *testing.T, cfg *config.Config) {
	t.Helper()
	if len(cfg.Interfaces) == 0 {
		t.Error("no interface")
	}
	names, marks := map[string]bool{}, map[uint32]bool{}
	for _, s := range cfg.Services {
		if names[s.Name] || s.Name == "" || len(s.Listeners) == 0 || len(s.Checks) != len(s.Reals) || s.Quorum < 1 {
			t.Errorf("service %+v", s)
		}
		names[s.Name] = true
		if s.ByMark() != (s.Mark != 0) || s.Mark != 0 && marks[s.Mark] {
			t.Errorf("mark %d of %s", s.Mark, s.Name)
		}
		marks[s.Mark] = true
		for i, r := range s.Reals {
			if !r.Addr.IsValid() || r.Addr.Is4() != s.Listeners[0].Addr.Is4() || r.Lower > r.Upper || r.Port != 0 && r.Forward != lb.NAT {
				t.Errorf("real %+v", r)
			}
			for _, c := range s.Checks[i] {
				if c != c.WithDefaults() || c.Type == "" {
					t.Errorf("check %+v", c)
				}
				c.CA = "" // the host's
				if _, err := health.New(health.Target{Spec: c, Real: r.Addr, Port: 1}, health.WithBFD(func(string) error { return nil })); err != nil {
					t.Errorf("a check that cannot be built: %v", err)
				}
			}
		}
	}
	for _, inst := range cfg.VRRP {
		if err := inst.Validate(); err != nil {
			t.Error(err)
		}
	}
}
