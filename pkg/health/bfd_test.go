package health_test

import (
	"errors"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/lvx-lb/lvx/pkg/health"
)

func TestBFDCheckFollowsItsSession(t *testing.T) {
	var state error
	find := health.WithBFD(func(session string) error {
		if session != "r1" {
			return errors.New("no such session")
		}
		return state
	})
	target := health.Target{Spec: health.Spec{Type: health.BFD, Session: "r1"}, VIP: netip.MustParseAddr("192.0.2.1")}
	c, err := health.New(target, find)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Check(t.Context()); err != nil {
		t.Errorf("session is up: %v", err)
	}
	state = errors.New("down: detection time expired")
	if err := c.Check(t.Context()); err == nil || err.Error() != "bfd session r1: down: detection time expired" {
		t.Errorf("session is down: %v", err)
	}
}

func TestBFDCheckThatCannotBeBuilt(t *testing.T) {
	for want, target := range map[string]health.Target{
		"no BFD here":   {Spec: health.Spec{Type: health.BFD, Session: "r1"}},
		"of no session": {Spec: health.Spec{Type: health.BFD}},
	} {
		if _, err := health.New(target); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
}

func TestBFDCheckBelievesItsSessionAtOnce(t *testing.T) {
	s := health.Spec{Type: health.BFD, Session: "r1"}.WithDefaults()
	if s.Fall != 1 || s.Rise != 1 || s.Interval != time.Second {
		t.Errorf("fall %d, rise %d, interval %v", s.Fall, s.Rise, s.Interval)
	}
}
