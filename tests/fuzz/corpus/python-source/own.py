from vllm.utils.deep_gemm import fp8_gemm_nt as gemm
import deep_gemm as dg
COMMON_NVCC_FLAGS = ["-DA=1", "--expt-relaxed-constexpr"]
_impl = getattr(_dg, "fp8_gemm_nt", None)
def fp8_gemm_nt(*args, **kwargs):
    del kwargs["is_deep_gemm_e8m0_used"]
    return _impl(*args, disable_ue8m0_cast=True, **kwargs)
def other(a):
    gemm(a, b=1, *a, **{})
    return dg.get_num_sms(a)
