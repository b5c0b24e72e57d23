package daemon

import (
	"errors"
	"log/slog"
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/lvx-lb/lvx/pkg/bfd"
	"github.com/lvx-lb/lvx/pkg/config"
	"github.com/lvx-lb/lvx/pkg/health"
	"github.com/lvx-lb/lvx/pkg/warnings"
)

func TestWhyASessionIsDown(t *testing.T) {
	for want, st := range map[string]bfd.Status{
		"":                                     {State: bfd.Up},
		"down: nothing heard of the neighbour": {State: bfd.Down},
		"down: detection time expired":         {State: bfd.Down, Diagnostic: bfd.DetectionTimeExpired},
		"down: nothing can be sent: no route":  {State: bfd.Down, Diagnostic: bfd.DetectionTimeExpired, Err: errors.New("no route")},
		"init: nothing heard of the neighbour": {State: bfd.Init, Err: unix.EHOSTUNREACH},
		"down: packets of the neighbour are discarded: TTL 254": {
			State: bfd.Down, Diagnostic: bfd.DetectionTimeExpired, Refused: errors.New("TTL 254"),
		},
		"down: the neighbour says administratively down": {
			State: bfd.Down, Diagnostic: bfd.NeighborSignaledDown, NeighbourReason: bfd.AdministrativelyDown,
		},
	} {
		if got := whyDown(st); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

// A check of a session that has not begun says nothing about its real server.
func TestCheckOfASessionThatHasNotBegun(t *testing.T) {
	if newSessions(&config.Config{}, nil, nil, slog.New(slog.DiscardHandler)) != nil {
		t.Error("there are sessions without any in the file")
	}
	cfg := &config.Config{BFD: []bfd.Session{{Name: "r1", Neighbour: netip.MustParseAddr("192.0.2.11")}}}
	log := slog.New(slog.DiscardHandler)
	s := newSessions(cfg, warnings.New(log), nil, log)
	if err := s.find("r1"); !errors.Is(err, health.ErrNotAsked) {
		t.Errorf("%v, want one that says that nothing was asked", err)
	}
}
