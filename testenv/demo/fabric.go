package demo

import (
	"context"
	"fmt"
	"net"
	"slices"
	"strings"

	"github.com/lvx-lb/lvx/testenv"
	"github.com/lvx-lb/lvx/testenv/rig"
)

// fabricDirectors all announce the VIP.
var fabricDirectors = []string{"d1", "d2", "d3"}

const fabricDirector = `sloppy_tcp: true
bgp:
  asn: 65010
  peers: [{address: 172.25.0.1, asn: 65000, hold_time: 9s, bfd: {interval: 100ms, multiplier: 3}}]
`

// threeDirectors is a fabric: a router that runs BIRD and spreads flows over all
// directors that announce the VIP.
func threeDirectors(ctx context.Context, s *stage) error {
	fmt.Fprintln(s.o.Out, "\nA client behind a router that runs BIRD, three directors and two real servers; the directors speak BGP.")
	if err := s.build(ctx, testenv.Shape{Directors: len(fabricDirectors), Routed: true}); err != nil {
		return err
	}
	router := s.Cluster.Host("router")
	if err := router.Sysctl("net.ipv4.fib_multipath_hash_policy", "1"); err != nil { // by ports too
		return err
	}
	if err := s.StartBIRD("all", fabricDirectors...); err != nil {
		return err
	}
	for _, d := range fabricDirectors {
		if err := s.Direct(ctx, d, fabricDirector+twoReals("web", http80, "mh", "flags: [mh-port]", 1, 1)); err != nil {
			return err
		}
	}
	return s.awaitPaths(ctx, fabricDirectors...)
}

// awaitPaths waits until the router sends to exactly these directors.
func (s *stage) awaitPaths(ctx context.Context, want ...string) error {
	return rig.Await(ctx, func() error {
		out, err := s.Cluster.Host("router").Run(ctx, "ip", "route", "show", vip)
		if err != nil {
			return err
		}
		var paths []string
		for _, d := range fabricDirectors {
			if slices.Contains(strings.Fields(out), s.Cluster.Host(d).Addr("eth0").String()) {
				paths = append(paths, d)
			}
		}
		if !slices.Equal(paths, want) {
			return fmt.Errorf("the router sends to %v, want %v", paths, want)
		}
		return nil
	})
}

func killedOfThree(ctx context.Context, s *stage) error {
	const held = 30
	s.say("the router spreads over d1, d2 and d3; %d connections stay open, a request every %s; d1 is killed with -9", held, streamEvery)
	open, err := s.holdSome(ctx, held)
	if err != nil {
		return err
	}
	got, n, err := s.lost(func() error {
		s.Kill("d1")
		return s.awaitPaths(ctx, "d2", "d3")
	})
	if err != nil {
		return err
	}
	s.verify("requests lost", got, "none", n == 0)
	alive := 0
	for _, c := range open {
		if name, err := rig.Ask(c.conn); err == nil && name == c.real {
			alive++
		}
		_ = c.conn.Close()
	}
	s.check("open connections that are with their real", fmt.Sprint(alive), fmt.Sprint(held))
	out, err := s.LVX(ctx, "d2", "status")
	if err != nil {
		return err
	}
	for line := range strings.Lines(out) {
		if strings.Contains(line, "router ") || strings.Contains(line, "announced") {
			s.say("d2: %s", strings.TrimSpace(line))
		}
	}
	return nil
}

// heldConn is an open connection and the real that it is with.
type heldConn struct {
	conn net.Conn
	real string
}

// holdSome opens connections and asks once on each.
func (s *stage) holdSome(ctx context.Context, n int) (open []heldConn, err error) {
	for range n {
		conn, err := s.Client.Dial(ctx, "tcp", vip+":80")
		if err != nil {
			return open, err
		}
		real, err := rig.Ask(conn)
		if err != nil {
			return open, err
		}
		open = append(open, heldConn{conn, real})
	}
	return open, nil
}
