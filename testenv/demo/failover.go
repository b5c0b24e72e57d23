package demo

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/lvx-lb/lvx/testenv"
	"github.com/lvx-lb/lvx/testenv/rig"
)

// twoDirectors is the second half of the first article: one VIP, two
// directors, d1 preferred.
func twoDirectors(ctx context.Context, s *stage) error {
	fmt.Fprintln(s.o.Out, "\nA client, two directors and two real servers; the directors speak VRRP.")
	if err := s.build(ctx, testenv.Shape{}); err != nil {
		return err
	}
	for name, priority := range map[string]int{"d1": 150, "d2": 100} {
		if err := s.Direct(ctx, name, redundant(priority)); err != nil {
			return err
		}
	}
	return s.role(ctx, "d1", "MASTER")
}

func redundant(priority int) string {
	return fmt.Sprintf(`vrrp:
  - name: VI_1
    interface: eth0
    virtual_router_id: 51
    version: 3
    priority: %d
    advert_interval: 100ms
    addresses: [%s/24]
`, priority, vip) + twoReals("web", http80, "sh", "", 1, 1) + "sloppy_tcp: true\n"
}

// role waits until a director's status shows a VRRP role.
func (s *stage) role(ctx context.Context, name, role string) error {
	return rig.Await(ctx, func() error {
		out, err := s.LVX(ctx, name, "status")
		if err != nil {
			return err
		}
		if !strings.Contains(out, role) {
			return fmt.Errorf("%s is not %s:\n%s", name, role, out)
		}
		return nil
	})
}

const (
	streamEvery = 10 * time.Millisecond
	streamLimit = 3000 // requests, at most
)

// lost streams requests while something happens and returns how many failed.
func (s *stage) lost(f func() error) (string, int, error) {
	stream := s.Stream("http://"+vip, streamEvery, 5*time.Second, streamLimit)
	time.Sleep(10 * streamEvery)
	err := f()
	time.Sleep(50 * streamEvery)
	total, failed := stream.Stop()
	return fmt.Sprintf("%d of %d", len(failed), total), len(failed), err
}

func killedMaster(ctx context.Context, s *stage) error {
	s.say("a request every %s; d1 is killed with -9", streamEvery)
	got, n, err := s.lost(func() error {
		s.Kill("d1")
		return s.role(ctx, "d2", "MASTER")
	})
	if err != nil {
		return err
	}
	s.verify("requests lost in the takeover", got, "none", n == 0)
	return nil
}

func returningMaster(ctx context.Context, s *stage) error {
	s.say("d1 starts again and, with the higher priority, takes over")
	got, n, err := s.lost(func() error {
		if err := s.Start(ctx, "d1"); err != nil {
			return err
		}
		if err := s.role(ctx, "d1", "MASTER"); err != nil {
			return err
		}
		return s.role(ctx, "d2", "BACKUP")
	})
	if err != nil {
		return err
	}
	s.verify("requests lost in the return", got, "none", n == 0)
	return nil
}

func stoppedMaster(ctx context.Context, s *stage) error {
	s.say("d1 is stopped properly: it hands over first")
	got, n, err := s.lost(func() error {
		if err := s.Stop("d1"); err != nil {
			return err
		}
		return s.role(ctx, "d2", "MASTER")
	})
	if err != nil {
		return err
	}
	s.verify("requests lost in the handover", got, "none", n == 0)
	left, err := leftovers(ctx, s.Cluster.Host("d1"))
	if err != nil {
		return err
	}
	s.check("left on d1", left, "nothing")
	return nil
}
