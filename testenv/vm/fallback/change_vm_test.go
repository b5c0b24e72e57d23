//go:build ipvsvm

package fallback

import (
	"context"
	"errors"
	"sync"
	"syscall"
	"testing"
	"time"
)

// TestKernelBackendChanges: while a reload gives the services to another data path,
// there and back, nobody who opens a connection is refused: the one before
// serves until the other one does.
func TestKernelBackendChanges(t *testing.T) {
	l := drLab(t)
	body := "interface: eth0\nbackend: xdp\nstop_grace: 120s\nservices:\n  - name: web\n    listen: [\"" + vip + ":80/tcp\"]\n    scheduler: rr\n    reals: [{address: 192.168.79.27}, {address: 192.168.79.37}]\n"
	l.run(body)
	l.curl(1, url)
	ctx, stop := context.WithCancel(t.Context())
	var opened, refused int
	var client sync.WaitGroup
	client.Go(func() {
		for ctx.Err() == nil {
			try, end := context.WithTimeout(ctx, 10*time.Second)
			conn, err := l.client.Dial(try, "tcp", vip+":80")
			end()
			switch {
			case err == nil:
				opened++
				_ = conn.Close()
			case errors.Is(err, syscall.ECONNREFUSED):
				refused++
			}
		}
	})
	for _, to := range []string{"ipvs", "xdp"} {
		from := map[string]string{"ipvs": "xdp", "xdp": "ipvs"}[to]
		l.edit("backend: "+from, "backend: "+to)
		l.curl(2, url)
	}
	stop()
	client.Wait()
	t.Logf("%d connections opened, %d refused", opened, refused)
	if refused > 0 || opened == 0 {
		t.Errorf("%d clients were refused, %d were served", refused, opened)
	}
}
