package doctor

import (
	"context"
	"errors"
	"net/netip"
	"sync"
	"testing"

	"github.com/lvx-lb/lvx/pkg/lb"
	"github.com/lvx-lb/lvx/pkg/neigh"
)

// vanishing is a host whose interfaces and tools are gone after some questions.
type vanishing struct {
	*fake
	mu   sync.Mutex
	left int
}

var errGone = errors.New("no such device")

func (v *vanishing) ask() error {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.left--; v.left < 0 {
		return errGone
	}
	return nil
}

func (v *vanishing) Owners(ctx context.Context, iface string, a netip.Addr) ([]neigh.MAC, error) {
	if err := v.ask(); err != nil {
		return nil, err
	}
	return v.fake.Owners(ctx, iface, a)
}

func (v *vanishing) Route(a netip.Addr) (Route, error) {
	if err := v.ask(); err != nil {
		return Route{}, err
	}
	return v.fake.Route(a)
}

func (v *vanishing) Interface(name string) (Interface, error) {
	if err := v.ask(); err != nil {
		return Interface{}, err
	}
	return v.fake.Interface(name)
}

func (v *vanishing) Sysctl(key string) (string, error) {
	if err := v.ask(); err != nil {
		return "", err
	}
	return v.fake.Sysctl(key)
}

func (v *vanishing) Marks(served []lb.Listener, interfaces []string) ([]string, error) {
	if err := v.ask(); err != nil {
		return nil, err
	}
	return v.fake.Marks(served, interfaces)
}

// Whatever vanishes while the doctor asks, it comes to an end and says what it
// could not find out: nothing is found that is not so, and nothing is silent.
func TestFault13WhatVanishesMeanwhileIsSaid(t *testing.T) {
	ended := false
	for n := range 100 {
		c, f := healthyCase()
		v := &vanishing{fake: f, left: n}
		found := Examine(t.Context(), c, v)
		if v.left >= 0 {
			if len(found) != 0 {
				t.Errorf("nothing vanished, yet found %+v", found)
			}
			ended = true
			break
		}
		if len(found) == 0 {
			t.Errorf("after %d questions all is gone, and nothing is said", n)
		}
		for _, w := range found {
			if !w.Note && w.Kind != OffSegment || w.Subject == "" || w.Text == "" {
				t.Errorf("after %d questions: %+v", n, w)
			}
		}
	}
	if !ended {
		t.Error("a healthy host is asked a hundred questions")
	}
}
