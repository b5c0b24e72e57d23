package demo

import (
	"context"
	"fmt"
	"strings"

	"github.com/lvx-lb/lvx/testenv/rig"
)

// healthChecks stops real servers and starts them again.
func healthChecks(ctx context.Context, s *stage) error {
	if err := s.sorryServer(); err != nil {
		return err
	}
	const check = "check: {type: http, interval: 300ms, timeout: 2s, fall: 2, rise: 2}\n    sorry_server: 127.0.0.1"
	if err := s.Direct(ctx, "d1", twoReals("web", http80, "rr", check, 1, 1)); err != nil {
		return err
	}
	if err := s.reals(ctx, "r1", "r2"); err != nil {
		return err
	}
	s.say("r1's web server stops")
	if err := s.Webs["r1"].Close(); err != nil {
		return err
	}
	if err := s.down(ctx, "172.25.0.12"); err != nil {
		return err
	}
	s.check("requests once r1 is known to be down", s.Curl(4, "http://"+vip), "r2 r2 r2 r2")
	s.say("r2's stops too")
	if err := s.Webs["r2"].Close(); err != nil {
		return err
	}
	if err := s.down(ctx, "172.25.0.13"); err != nil {
		return err
	}
	s.check("requests with both down", s.Curl(2, "http://"+vip), "d1 d1")
	for _, name := range []string{"r1", "r2"} {
		w, err := s.Cluster.Host(name).ServeWeb(":80", ":443", ":2222")
		if err != nil {
			return err
		}
		s.Webs[name] = w
	}
	s.say("both start again")
	err := s.reals(ctx, "r1", "r2")
	s.verify("requests when both have passed twice", "r1 and r2", "r1 and r2", err == nil)
	return err
}

// missingVIP takes the VIP off a real: what no check of its own address sees.
func missingVIP(ctx context.Context, s *stage) error {
	const check = "check: {type: http, via: vip, interval: 300ms, timeout: 1s, fall: 2, rise: 1}"
	if err := s.Direct(ctx, "d1", twoReals("web", http80, "rr", check, 1, 1)); err != nil {
		return err
	}
	if err := s.reals(ctx, "r1", "r2"); err != nil {
		return err
	}
	r1 := s.Cluster.Host("r1")
	if _, err := r1.Run(ctx, "ip", "addr", "del", vip+"/32", "dev", "lo"); err != nil {
		return err
	}
	s.say("r1 loses the VIP on lo; its web server still answers on 172.25.0.12")
	if err := s.down(ctx, "172.25.0.12"); err != nil {
		return err
	}
	out, err := s.LVX(ctx, "d1", "status")
	if err != nil {
		return err
	}
	for line := range strings.SplitSeq(out, "\n") {
		if strings.Contains(line, "172.25.0.12") {
			s.verify("status", strings.Join(strings.Fields(line), " "), "down, and why", strings.Contains(line, "VIP"))
		}
	}
	s.check("requests", s.Curl(4, "http://"+vip), "r2 r2 r2 r2")
	if _, err := r1.Run(ctx, "ip", "addr", "add", vip+"/32", "dev", "lo"); err != nil {
		return err
	}
	return s.reals(ctx, "r1", "r2")
}

// sorryServer serves a page on the director itself.
func (s *stage) sorryServer() error {
	if s.Webs["d1"] != nil {
		return nil
	}
	w, err := s.Cluster.Host("d1").ServeWeb(":80")
	s.Webs["d1"] = w
	return err
}

// reals waits until requests reach exactly these.
func (s *stage) reals(ctx context.Context, names ...string) error {
	return rig.Await(ctx, func() error {
		got := s.Curl(2*len(names), "http://"+vip)
		for _, n := range names {
			if strings.Count(got, n) != 2 {
				return fmt.Errorf("requests were answered by %s", got)
			}
		}
		return nil
	})
}

// down waits until status says that a real is down.
func (s *stage) down(ctx context.Context, real string) error {
	return rig.Await(ctx, func() error {
		out, err := s.LVX(ctx, "d1", "status")
		if err != nil {
			return err
		}
		for line := range strings.SplitSeq(out, "\n") {
			if strings.Contains(line, real) && strings.Contains(line, "down") {
				return nil
			}
		}
		return fmt.Errorf("%s is not down yet:\n%s", real, out)
	})
}
