package faults

import (
	"context"
	"net"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/lvx-lb/lvx/testenv"
	"github.com/lvx-lb/lvx/testenv/rig"
)

// A mail server that cannot be reached, or that takes connections and says
// nothing, holds up neither the end of the daemon nor its successor: what could
// not be told is in the history.
func TestFault19StopDoesNotWaitForMail(t *testing.T) {
	t.Parallel() // it waits most of its time
	for name, server := range map[string]string{"silent": "172.25.0.50:25", "unreachable": "172.25.0.77:25"} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, testenv.Shape{Directors: 1})
			l, err := r.Client.Listen("tcp", "172.25.0.50:25")
			must(t, err)
			defer l.Close()
			go acceptAll(l)
			must(t, r.Direct(t.Context(), "d1", checked("type: tcp")+"notify: {smtp: {server: \""+server+"\", from: a@example.com, to: [b@example.com]}}\n"))
			realsUp(t, r, "r1", "r2")
			must(t, r.Webs["r1"].Close())
			says(t, r, "status", "172.25.0.12", "refused")
			begin := time.Now()
			must(t, r.Leave("d1"))
			t.Logf("ended after %s", time.Since(begin))
			must(t, r.Start(t.Context(), "d1"))
			says(t, r, "history", "not delivered")
			if got := r.Curl(2, "http://"+rig.VIP); got != "r2 r2" {
				t.Errorf("requests: %s", got)
			}
		})
	}
}

// acceptAll takes connections and says nothing on them.
func acceptAll(l net.Listener) {
	var open []net.Conn
	for {
		c, err := l.Accept()
		if err != nil {
			for _, c := range open {
				c.Close()
			}
			return
		}
		open = append(open, c)
	}
}

// Commands do not wait for ever for a daemon that hangs: they say so.
func TestFault19CommandsOfAHungDaemon(t *testing.T) {
	t.Parallel() // it waits most of its time
	r := newRig(t, testenv.Shape{Directors: 1})
	must(t, r.Direct(t.Context(), "d1", service("")))
	realsUp(t, r, "r1", "r2")
	must(t, r.Daemons["d1"].Signal(syscall.SIGSTOP))
	defer func() { must(t, r.Daemons["d1"].Signal(syscall.SIGCONT)) }()
	var all sync.WaitGroup
	for _, line := range []string{"status", "list -n", "reload", "weight web 172.25.0.12 3", "history", "metrics", "explain tcp 172.25.0.50:4000 172.25.0.100:80"} {
		all.Go(func() {
			ctx, cancel := context.WithTimeout(t.Context(), 3*rig.Patience)
			defer cancel()
			out, err := r.LVX(ctx, "d1", strings.Fields(line)...)
			if err == nil || ctx.Err() != nil || !strings.Contains(out+err.Error(), "has not answered for 30s") {
				t.Errorf("lvx %s does not say that the daemon hangs: %v\n%s", line, err, out)
			}
		})
	}
	all.Wait()
	if got := r.Curl(2, "http://"+rig.VIP); got != "r1 r2" && got != "r2 r1" {
		t.Errorf("the packet path: %s", got)
	}
}
