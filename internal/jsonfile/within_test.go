package jsonfile

import (
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// Reading from a disk that hangs ends after its time, and what comes later
// is dropped.
func TestFault03ReadingHasALimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hang := make(chan struct{})
		begin := time.Now()
		v, err := Within(time.Second, func() (int, error) { <-hang; return 7, nil })
		if v != 0 || err == nil || !strings.Contains(err.Error(), "has not answered for 1s") || time.Since(begin) != time.Second {
			t.Errorf("%d, %v after %v", v, err, time.Since(begin))
		}
		close(hang)
		synctest.Wait()
		if v, err := Within(time.Second, func() (int, error) { return 7, nil }); v != 7 || err != nil {
			t.Errorf("%d, %v", v, err)
		}
		want := errors.New("broken")
		if _, err := Within(time.Second, func() (int, error) { return 0, want }); !errors.Is(err, want) {
			t.Errorf("%v", err)
		}
	})
}
