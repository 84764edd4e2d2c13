from stedm_jax.doctor.hbm import hbm_bytes
from stedm_jax.doctor.hlo import Module

TEXT = """HloModule jit_f, num_partitions=1

%fused (p.1: f32[256,1024], p.2: f32[256,1024]) -> f32[256,1024] {
  %p.1 = f32[256,1024]{1,0} parameter(0)
  %p.2 = f32[256,1024]{1,0} parameter(1)
  %inside = f32[256,1024]{1,0} multiply(%p.1, %p.2)
  ROOT %sum = f32[256,1024]{1,0} add(%inside, %p.2)
}

%body (p.3: (s32[], f32[256,1024])) -> (s32[], f32[256,1024]) {
  %p.3 = (s32[]{:T(128)}, f32[256,1024]{1,0}) parameter(0)
  %number = s32[]{:T(128)S(1)} get-tuple-element(%p.3), index=0
  %x = f32[256,1024]{1,0} get-tuple-element(%p.3), index=1
  %here = f32[256,1024]{1,0:T(8,128)S(1)} fusion(%x, %x), kind=kLoop, calls=%fused
  %there = f32[256,1024]{1,0:T(8,128)} fusion(%here, %x), kind=kLoop, calls=%fused
  ROOT %out = (s32[]{:T(128)}, f32[256,1024]{1,0}) tuple(%number, %there)
}

%condition (p.4: (s32[], f32[256,1024])) -> pred[] {
  %p.4 = (s32[]{:T(128)}, f32[256,1024]{1,0}) parameter(0)
  ROOT %never = pred[]{:T(512)S(1)} constant(false)
}

ENTRY %main (a: f32[256,1024], b: (s32[], f32[256,1024])) -> f32[256,1024] {
  %a = f32[256,1024]{1,0} parameter(0)
  %b = (s32[]{:T(128)}, f32[256,1024]{1,0}) parameter(1)
  %part = ((f32[256,1024]{1,0}), f32[64,1024]{1,0:T(8,128)S(1)}, s32[]) slice-start(%a), slice={[0:64], [0:1024]}
  %arrived = f32[64,1024]{1,0:T(8,128)S(1)} slice-done(%part)
  %loop = (s32[]{:T(128)}, f32[256,1024]{1,0}) while(%b), condition=%condition, body=%body, backend_config={"known_trip_count":{"n":"5"}}
  ROOT %y = f32[256,1024]{1,0} get-tuple-element(%loop), index=1
}
"""  # noqa: E501


def test_what_stays_on_the_chip_or_in_a_fusion_does_not_count() -> None:
    whole, part = 256 * 1024 * 4, 64 * 1024 * 4
    turn = whole + 2 * whole  # x is read; x is read again and the result written
    assert hbm_bytes(Module(TEXT)) == part + 5 * turn
